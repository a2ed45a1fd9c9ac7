package cli

import (
	"bytes"
	"os"
	"testing"
)

// TestFalcoRuleTests puts the tests of testdata/falco to Falco's own rules.
func TestFalcoRuleTests(t *testing.T) {
	dir := os.Getenv("WARREN_TEST_DATA")
	if dir == "" {
		t.Skip("WARREN_TEST_DATA is not set: it names the folder with falco_rules.yaml")
	}
	if _, err := os.Stat(dir + "/falco_rules.yaml"); err != nil {
		t.Skip(err)
	}
	var out bytes.Buffer
	env := testEnv(&out, nil)
	env.Dir, env.Getenv = ".", os.Getenv
	if code := Main(t.Context(), env, []string{"rule", "test", "testdata/falco"}); code != 0 {
		t.Errorf("exit code %d\n%s", code, &out)
	}
}
