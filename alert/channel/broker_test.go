package channel

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// numbered is an alert with an id of its own.
func numbered(id string) []byte { return []byte(strings.Replace(someAlert, "u-1", id, 1)) }

// startKafka starts a broker that has the topic alerts, and returns how it is reached.
func startKafka(t *testing.T, o ...kfake.Opt) (*kfake.Cluster, Config) {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(1, "alerts")}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster, Config{Brokers: strings.Join(cluster.ListenAddrs(), ","), Topic: "alerts", Timeout: time.Minute}
}

// startNATS starts a server that ends with the test.
func startNATS(t *testing.T, o *server.Options) *server.Server {
	t.Helper()
	o.Host, o.Port, o.JetStream, o.StoreDir, o.NoLog, o.NoSigs = "127.0.0.1", -1, true, t.TempDir(), true, true
	srv, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	go srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not answer")
	}
	return srv
}

// keepNATS makes a stream that keeps alerts.
func keepNATS(t *testing.T, srv *server.Server, by *tls.Config) jetstream.Stream {
	t.Helper()
	conn, err := nats.Connect(srv.ClientURL(), func(o *nats.Options) error {
		o.Secure, o.TLSConfig = by != nil, by
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "alerts", Subjects: []string{"alerts.*"}, Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

func TestNATS(t *testing.T) {
	srv := startNATS(t, &server.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := openNATS(&Config{Servers: srv.ClientURL(), Subject: "alerts.here", Timeout: time.Minute}, &Env{Hostname: "h"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	var no *refusedError
	if n, err := s.send(ctx, [][]byte{numbered("1")}); n != 0 || err == nil || errors.As(err, &no) || !strings.Contains(err.Error(), "no stream takes the subject alerts.here") {
		t.Errorf("without a stream: %d, %v", n, err)
	}
	kept := keepNATS(t, srv, nil)
	for range 2 { // what comes again is dropped
		if n, err := s.send(ctx, [][]byte{numbered("1"), numbered("2")}); n != 2 || err != nil {
			t.Fatal(n, err)
		}
	}
	info, err := kept.Info(ctx)
	if err != nil || info.State.Msgs != 2 {
		t.Fatalf("the stream has %+v, %v", info, err)
	}
	if m, err := kept.GetMsg(ctx, 2); err != nil || string(m.Data) != string(numbered("2")) {
		t.Errorf("%v, %v", m, err)
	}
	if n, err := s.send(ctx, [][]byte{[]byte("{")}); n != 0 || !errors.As(err, &no) {
		t.Error(n, err)
	}
}

func TestKafka(t *testing.T) {
	cluster, cfg := startKafka(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := openKafka(&cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if n, err := s.send(ctx, [][]byte{numbered("1"), numbered("2"), numbered("3")}); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	var no *refusedError
	if n, err := s.send(ctx, [][]byte{[]byte("{")}); n != 0 || !errors.As(err, &no) {
		t.Error(n, err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("alerts"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var got []string
	for len(got) < 3 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			got = append(got, string(r.Headers[0].Value))
			if string(r.Key) != "h" || string(r.Value) != string(numbered(got[len(got)-1])) {
				t.Errorf("a record %s: %s", r.Key, r.Value)
			}
		})
	}
	if strings.Join(got, " ") != "1 2 3" {
		t.Errorf("got %v", got)
	}
}

// TestKafkaAway gives up a broker that is not there.
func TestKafkaAway(t *testing.T) {
	s, err := openKafka(&Config{Brokers: "127.0.0.1:1", Topic: "alerts", Timeout: 200 * time.Millisecond}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if n, err := s.send(ctx, [][]byte{numbered("1")}); n != 0 || err == nil {
		t.Error(n, err)
	}
}

// TestKafkaTooLarge refuses the one alert that a broker does not take, and none that
// came with it.
func TestKafkaTooLarge(t *testing.T) {
	_, cfg := startKafka(t, kfake.BrokerConfigs(map[string]string{"message.max.bytes": "4096"}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := openKafka(&cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	random := make([]byte, 4096)
	rand.Read(random)
	list := [][]byte{numbered("1"), numbered("2"), numbered(hex.EncodeToString(random)), numbered("4"), numbered("5")}
	var no *refusedError
	if n, err := s.send(ctx, list); n != 2 || !errors.As(err, &no) {
		t.Fatal(n, err)
	}
	if n, err := s.send(ctx, list[3:]); n != 2 || err != nil {
		t.Error(n, err)
	}
	// Each is small enough, but not all together.
	list = list[:0]
	for i := range 8 {
		list = append(list, numbered(hex.EncodeToString(random[i*512:][:512])))
	}
	if n, err := s.send(ctx, list); n != len(list) || err != nil {
		t.Error(n, err)
	}
}

// TestKafkaSilent gives up a broker that does not answer.
func TestKafkaSilent(t *testing.T) {
	cluster, cfg := startKafka(t)
	s, err := openKafka(&cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := make(chan struct{}, 1)
	cluster.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		if _, ok := req.(*kmsg.ProduceRequest); !ok {
			return nil, nil, false
		}
		asked <- struct{}{}
		return nil, nil, true // and no answer
	})
	done := make(chan error, 1)
	go func() {
		_, err := s.send(ctx, [][]byte{numbered("1")})
		done <- err
	}()
	<-asked
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it goes on though nobody waits for it")
	}
	s.close()
}
