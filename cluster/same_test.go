package cluster

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// TestSame changes each field of a pod: none may be forgotten, or its change
// would never be told.
func TestSame(t *testing.T) {
	for i := range reflect.TypeFor[Pod]().NumField() {
		var a, b Pod
		if !same(&a, &b) {
			t.Fatal("two empty pods differ")
		}
		f := reflect.ValueOf(&b).Elem().Field(i)
		switch f.Interface().(type) {
		case string:
			f.SetString("x")
		case bool:
			f.SetBool(true)
		case time.Time:
			f.Set(reflect.ValueOf(time.Unix(1, 0)))
		case map[string]string:
			f.Set(reflect.ValueOf(map[string]string{"a": "b"}))
		case []netip.Addr:
			f.Set(reflect.ValueOf([]netip.Addr{{}}))
		case []PodPort:
			f.Set(reflect.ValueOf([]PodPort{{}}))
		case []Container:
			f.Set(reflect.ValueOf([]Container{{}}))
		case Workload:
			f.Set(reflect.ValueOf(Workload{Name: "x"}))
		default:
			t.Fatalf("%s: no value for a %s", reflect.TypeFor[Pod]().Field(i).Name, f.Type())
		}
		if same(&a, &b) {
			t.Errorf("a change of %s is not seen", reflect.TypeFor[Pod]().Field(i).Name)
		}
	}
}
