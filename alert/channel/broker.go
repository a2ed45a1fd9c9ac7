package channel

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// A stream publishes to a stream of NATS JetStream, which confirms each alert.
type stream struct {
	cfg  *Config
	conn *nats.Conn
	js   jetstream.JetStream
}

func openNATS(cfg *Config, env *Env) (sender, error) {
	options := []nats.Option{
		nats.Name("warren on " + env.Hostname), nats.Timeout(cfg.Timeout), nats.RetryOnFailedConnect(false),
		nats.NoReconnect(), // the channel opens another
	}
	if cfg.TLS != (TLS{}) {
		tc, err := cfg.TLS.config()
		if err != nil {
			return nil, err
		}
		options = append(options, nats.Secure(tc))
	}
	switch {
	case cfg.Credentials != "":
		options = append(options, nats.UserCredentials(cfg.Credentials))
	case cfg.User != "":
		password, err := secret(cfg.PasswordFile)
		if err != nil {
			return nil, err
		}
		options = append(options, nats.UserInfo(cfg.User, password))
	case cfg.TokenFile != "":
		token, err := secret(cfg.TokenFile)
		if err != nil {
			return nil, err
		}
		options = append(options, nats.Token(token))
	}
	conn, err := nats.Connect(strings.Join(splitList(cfg.Servers), ","), options...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", cfg.Servers, err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &stream{cfg, conn, js}, nil
}

func (s *stream) close() { s.conn.Close() }

func (s *stream) send(ctx context.Context, alerts [][]byte) (int, error) {
	for i, a := range alerts {
		v, err := viewOf(a)
		if err != nil {
			return i, &refusedError{err}
		}
		// The stream drops one that comes twice, by its id.
		_, err = s.js.Publish(ctx, s.cfg.Subject, a, jetstream.WithMsgID(v.UUID), jetstream.WithRetryAttempts(0))
		switch {
		case errors.Is(err, jetstream.ErrNoStreamResponse):
			return i, fmt.Errorf("no stream takes the subject %s", s.cfg.Subject)
		case errors.Is(err, nats.ErrMaxPayload):
			return i, &refusedError{err}
		case err != nil:
			return i, err
		}
	}
	return len(alerts), nil
}

// A topic produces to Kafka.
type topic struct {
	cfg     *Config
	client  *kgo.Client
	reached bool // the last that was sent was taken
}

func openKafka(cfg *Config, _ *Env) (sender, error) {
	options := []kgo.Opt{
		kgo.SeedBrokers(splitList(cfg.Brokers)...), kgo.DefaultProduceTopic(cfg.Topic), kgo.ClientID("warren"),
		// The time of one attempt is bounded by its context: that of a record would count
		// from the alert, which may have waited for days.
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.DialTimeout(cfg.Timeout), kgo.RetryTimeout(cfg.Timeout),
		// What is under way ends with that context as well: it may then come twice.
		kgo.AllowIdempotentProduceCancellation(),
	}
	if cfg.TLS != (TLS{}) {
		tc, err := cfg.TLS.config()
		if err != nil {
			return nil, err
		}
		options = append(options, kgo.DialTLSConfig(tc))
	}
	if cfg.User != "" {
		password, err := secret(cfg.PasswordFile)
		if err != nil {
			return nil, err
		}
		var how sasl.Mechanism
		switch cfg.SASL {
		case "scram-sha-256":
			how = scram.Auth{User: cfg.User, Pass: password}.AsSha256Mechanism()
		case "scram-sha-512":
			how = scram.Auth{User: cfg.User, Pass: password}.AsSha512Mechanism()
		default:
			how = plain.Auth{User: cfg.User, Pass: password}.AsMechanism()
		}
		options = append(options, kgo.SASL(how))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return nil, err
	}
	return &topic{cfg: cfg, client: client}, nil
}

func (t *topic) close() { t.client.Close() }

func (t *topic) send(ctx context.Context, alerts [][]byte) (int, error) {
	views, err := viewsOf(alerts)
	if err != nil {
		return 0, err
	}
	// Of brokers that cannot be talked to, sending says only that its time is over.
	if !t.reached {
		if err := t.client.Ping(ctx); err != nil {
			return 0, err
		}
	}
	t.reached = false
	records := make([]*kgo.Record, len(views))
	for i, v := range views {
		// Alerts of a machine stay in order: they have one key.
		records[i] = &kgo.Record{Key: []byte(v.Hostname), Value: alerts[i], Timestamp: v.Time, Headers: []kgo.RecordHeader{{Key: "uuid", Value: []byte(v.UUID)}, {Key: "priority", Value: []byte(v.Priority)}}}
	}
	// The results come in any order: what was taken before the first that was not
	// counts, and the rest comes again.
	failed := map[*kgo.Record]error{}
	for _, r := range t.client.ProduceSync(ctx, records...) {
		if r.Err != nil {
			failed[r.Record] = r.Err
		}
	}
	for i, r := range records {
		err := failed[r]
		if err == nil {
			continue
		}
		if !errors.Is(err, kerr.MessageTooLarge) && !errors.Is(err, kerr.RecordListTooLarge) {
			return i, err
		}
		if len(records) == 1 {
			return i, &refusedError{err}
		}
		// A broker says it of all that came together: which of them it was is found
		// one by one.
		if _, err := t.send(ctx, alerts[i:i+1]); err != nil {
			return i, err
		}
	}
	t.reached = true
	return len(records), nil
}

// splitList reads a list by comma.
func splitList(v string) (list []string) {
	for s := range strings.SplitSeq(v, ",") {
		list = append(list, strings.TrimSpace(s))
	}
	return list
}
