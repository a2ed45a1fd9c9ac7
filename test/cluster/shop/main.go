// Command shop is a web shop of a few small services, each a role of this one
// program, and its customer. It is what Warren is tried on: front asks catalog,
// cart, payment and ads; cart keeps what it has in Redis.
//
//	shop front | catalog | cart | payment   answer on port 8080
//	shop customer URL...                    buys for ever, about four times a second
//
// Some of it fails, as things do: payment declines one card in ten and breaks
// down at one in fifty, and nobody serves ads.
//
// Tests ask with it, too:
//
//	shop serve            answers who it is and who asked
//	shop get URL          prints the answer, in one attempt of five seconds
//	shop lookup NAME      prints addresses
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// address is where every role listens: on all addresses of both families.
const address = ":8080"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	roles := map[string]func() http.Handler{"front": front, "catalog": catalog, "cart": cart, "payment": payment, "serve": mirror}
	switch {
	case len(args) == 1 && roles[args[0]] != nil:
		return serve(ctx, roles[args[0]]())
	case len(args) >= 2 && args[0] == "customer":
		return customer(ctx, args[1:])
	case len(args) == 2 && args[0] == "get":
		text, err := get(ctx, args[1])
		fmt.Print(text)
		return err
	case len(args) == 2 && args[0] == "lookup":
		found, err := net.DefaultResolver.LookupHost(ctx, args[1])
		slices.Sort(found)
		fmt.Println(strings.Join(found, " "))
		return err
	}
	return fmt.Errorf("%q: front, catalog, cart, payment, customer URL..., serve, get URL or lookup NAME", args)
}

// serve answers until it is told to end.
func serve(ctx context.Context, handler http.Handler) error {
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}

// mirror tells who answers and who asked.
func mirror() http.Handler {
	name, err := os.Hostname()
	if err != nil {
		name = err.Error()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s asked by %s\n", name, r.RemoteAddr)
	})
}

// client asks over a new connection each time: connections are what there is to
// see.
func client() *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
}

// get asks once; an answer that is no success is an error.
func get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := client().Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s: %s", url, answer.Status, strings.TrimSpace(string(text)))
	}
	return string(text), nil
}
