package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"time"
)

// The services as each other knows them: names in their namespace.
const (
	catalogURL = "http://catalog/items"
	cartURL    = "http://cart/"
	paymentURL = "http://payment/charge"
	adsURL     = "http://ads/"
	database   = "redis:6379"
)

var items = []string{"carrots", "clover", "hay", "lettuce", "radishes"}

// front is what customers see: / shows the shop, /buy buys something.
func front() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		list, err := get(r.Context(), catalogURL)
		if err != nil {
			fail(w, err)
			return
		}
		// A shop without advertisements is still open.
		if ad, err := get(r.Context(), adsURL); err == nil {
			list += ad
		}
		_, _ = fmt.Fprint(w, list)
	})
	mux.HandleFunc("GET /buy", func(w http.ResponseWriter, r *http.Request) {
		for _, url := range []string{cartURL + "add?item=" + items[rand.IntN(len(items))], paymentURL, cartURL + "clear"} {
			if _, err := get(r.Context(), url); err != nil {
				fail(w, err)
				return
			}
		}
		_, _ = fmt.Fprintln(w, "thank you")
	})
	return healthy(mux)
}

func catalog() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, strings.Join(items, "\n"))
	})
	return healthy(mux)
}

// cart keeps one basket for all, in the database.
func cart() http.Handler {
	mux := http.NewServeMux()
	ask := func(w http.ResponseWriter, r *http.Request, command ...string) {
		answer, err := redis(r.Context(), database, command...)
		if err != nil {
			fail(w, err)
			return
		}
		_, _ = fmt.Fprintln(w, answer)
	}
	mux.HandleFunc("GET /add", func(w http.ResponseWriter, r *http.Request) { ask(w, r, "RPUSH", "cart", r.FormValue("item")) })
	mux.HandleFunc("GET /clear", func(w http.ResponseWriter, r *http.Request) { ask(w, r, "DEL", "cart") })
	return healthy(mux)
}

func payment() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /charge", func(w http.ResponseWriter, _ *http.Request) {
		switch n := rand.IntN(50); {
		case n == 0:
			// As if it had crashed: the connection is reset under the caller.
			panic(http.ErrAbortHandler)
		case n <= 5:
			http.Error(w, "card declined", http.StatusPaymentRequired)
		default:
			_, _ = fmt.Fprintln(w, "charged")
		}
	})
	return healthy(mux)
}

// healthy adds what the kubelet asks.
func healthy(mux *http.ServeMux) http.Handler {
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	return mux
}

// fail passes on that somebody else failed.
func fail(w http.ResponseWriter, err error) { http.Error(w, err.Error(), http.StatusBadGateway) }

// customer looks at the shop and buys, at each of the addresses in turn, until
// its context ends. What went wrong is its log, at most a line a second.
func customer(ctx context.Context, shops []string) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	var bought, failed int
	told := time.Now()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		url := strings.TrimSuffix(shops[n%len(shops)], "/") + "/"
		if n%4 >= 2 {
			url += "buy"
		}
		if _, err := get(ctx, url); err != nil {
			failed++
			if now := time.Now(); now.Sub(told) >= time.Second {
				told = now
				fmt.Fprintf(os.Stderr, "%d done, %d failed: %v\n", bought, failed, err)
			}
			continue
		}
		bought++
	}
}
