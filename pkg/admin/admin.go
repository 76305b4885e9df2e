// Package admin is the operator's door: health, metrics and what is served, over HTTP on a loopback port or a unix socket.
//
// It shows names of servers and items and the reasons why some are not served; no arguments, credentials or addresses. Whoever reaches
// it can read that, so it listens on loopback by default.
package admin

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
)

// Options is where the answers come from. All must be set; every function is called concurrently.
type Options struct {
	Ready   func() error // why the gateway does not serve, or nil
	Metrics http.Handler
	Catalog func() any // what is served, and why something is not; encoded as JSON
}

// Handler serves /healthz (the process lives), /readyz (it serves), /metrics and /catalog.
func Handler(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := o.Ready(); err != nil {
			text(w, http.StatusServiceUnavailable, err.Error()+"\n")
			return
		}
		text(w, http.StatusOK, "ready\n")
	})
	mux.Handle("GET /metrics", o.Metrics)
	mux.HandleFunc("GET /catalog", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(o.Catalog()) // a client that has gone is no fault of ours
	})
	return mux
}

func text(w http.ResponseWriter, status int, s string) {
	w.Header().Set("content-type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(s)) // a client that has gone is no fault of ours
}

// Transport reaches an admin address: network tcp or unix, and host:port or a path.
func Transport(network, address string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
}
