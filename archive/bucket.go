package archive

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// A bucket keeps segments as objects. It needs the right to put them, and no
// other.
type bucket struct {
	Target
	client    *minio.Client
	transport *http.Transport
}

func newBucket(t Target, file string) (*bucket, error) {
	k, err := readKeys(file)
	if err != nil {
		return nil, err
	}
	region := t.Region
	if region == "" {
		region = os.Getenv("AWS_REGION")
	}
	if region == "" && t.Endpoint != amazon {
		region = "us-east-1" // what others than Amazon answer to
	}
	transport, err := minio.DefaultTransport(!t.Plain)
	if err != nil {
		return nil, err
	}
	client, err := minio.New(t.Endpoint, &minio.Options{
		Creds:  credentials.NewStaticV4(k.id, k.secret, k.token),
		Secure: !t.Plain, Region: region, Transport: transport,
		MaxRetries: 1, // Run knows better when to try again
	})
	if err != nil {
		return nil, err
	}
	return &bucket{Target: t, client: client, transport: transport}, nil
}

func (b *bucket) put(ctx context.Context, name string, from *source) error {
	// A checksum that every such server knows, and one request for each segment:
	// an object is there whole, or not at all.
	_, err := b.client.PutObject(ctx, b.Bucket, path.Join(b.Prefix, name), from, from.size, minio.PutObjectOptions{
		ContentType: "application/vnd.apache.parquet", SendContentMd5: true, DisableMultipart: true,
	})
	if err != nil {
		return fmt.Errorf("put %s into bucket %s: %w", name, b.Bucket, err)
	}
	return nil
}

func (b *bucket) close() { b.transport.CloseIdleConnections() }

// keys say who may write to a bucket. They appear in no error and no log.
type keys struct{ id, secret, token string }

const (
	keyID     = "aws_access_key_id"
	keySecret = "aws_secret_access_key"
	keyToken  = "aws_session_token"
)

// readKeys reads them from a file in the format of AWS, of its section default,
// or from the environment.
func readKeys(file string) (keys, error) {
	get := func(name string) string { return os.Getenv(strings.ToUpper(name)) }
	where := "the environment has"
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return keys{}, fmt.Errorf("read credentials: %w", err)
		}
		values := parseKeys(text)
		get = func(name string) string { return values[name] }
		where = "section default of " + file + " has"
	}
	k := keys{id: get(keyID), secret: get(keySecret), token: get(keyToken)}
	if k.id == "" || k.secret == "" {
		names := keyID + " or no " + keySecret
		if file == "" {
			names = strings.ToUpper(names[:len(keyID)]) + " or no " + strings.ToUpper(keySecret) + ", and no file of credentials is configured"
		}
		return keys{}, errors.New("no keys for the bucket: " + where + " no " + names)
	}
	return k, nil
}

// parseKeys reads the section default, or what stands before any section.
func parseKeys(text []byte) map[string]string {
	values := map[string]string{}
	within := true
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			within = strings.TrimSpace(strings.Trim(line, "[]")) == "default"
		case within:
			if name, value, ok := strings.Cut(line, "="); ok {
				values[strings.TrimSpace(name)] = strings.TrimSpace(value)
			}
		}
	}
	return values
}
