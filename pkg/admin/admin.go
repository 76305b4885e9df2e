// Package admin is the operator's door: health, metrics and what is served, over HTTP on a loopback port or a unix socket.
//
// Open to whoever reaches it are health, metrics, names of servers and items with the reasons why some are not served, and what servers
// and the configuration say of items: no arguments, credentials or addresses. So it listens on loopback by default. All else is a
// [Route], which needs an operator's key, or a unix socket, whose mode guards it.
package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
)

// Options is where the answers come from. All must be set; every function is called concurrently.
type Options struct {
	Ready   func() error // why the gateway does not serve, or nil
	Metrics http.Handler
	Catalog func() any // what is served, and why something is not; encoded as JSON
	Items   func() any // every item as policy sees it, nil before there is any; encoded as JSON

	// Operators are the keys, as they are now. Guarded says that whoever connects may do everything: a unix socket of mode 0600.
	Operators func() []Operator
	Guarded   bool
	Routes    []Route
}

// Operator is a key and what it opens.
type Operator struct {
	ID     string
	Digest [sha256.Size]byte // of the key
	May    []string
}

// Route is something that not everybody may ask or do.
type Route struct {
	Pattern string // as net/http writes it: GET /explain/{id}
	May     string // the permission: explain, approve, policy
	Serve   func(w http.ResponseWriter, r *http.Request, operator string)
}

// Peer is the operator's name on a guarded socket.
const Peer = "socket"

// operator finds who asks by "Authorization: Bearer KEY".
func (o *Options) operator(r *http.Request, may string) (id string, status int, why string) {
	key, ok := strings.CutPrefix(r.Header.Get("authorization"), "Bearer ")
	if !ok {
		if o.Guarded {
			return Peer, http.StatusOK, ""
		}
		return "", http.StatusUnauthorized, "this needs an operator's key: name one in admin.operators, and give it with --key or MCPGW_ADMIN_KEY"
	}
	digest := sha256.Sum256([]byte(key))
	for _, op := range o.Operators() {
		if subtle.ConstantTimeCompare(op.Digest[:], digest[:]) == 1 {
			if !slices.Contains(op.May, may) {
				return "", http.StatusForbidden, "operator " + op.ID + " may not do this: `may` of admin.operators does not name " + may
			}
			return op.ID, http.StatusOK, ""
		}
	}
	return "", http.StatusUnauthorized, "no operator has this key"
}

// Write answers with a value as JSON.
func Write(w http.ResponseWriter, v any) {
	w.Header().Set("content-type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // a client that has gone is no fault of ours
}

// Fail answers with one line that says what went wrong and what to do.
func Fail(w http.ResponseWriter, status int, why string) { text(w, status, why+"\n") }

// Handler serves /healthz (the process lives), /readyz (it serves), /metrics, /catalog and /catalog/items.
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
		Write(w, o.Catalog())
	})
	mux.HandleFunc("GET /catalog/items", func(w http.ResponseWriter, _ *http.Request) {
		items := o.Items()
		if items == nil {
			Fail(w, http.StatusServiceUnavailable, "the gateway is starting: no server was read yet")
			return
		}
		Write(w, items)
	})
	for _, route := range o.Routes {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("origin") != "" || r.Header.Get("sec-fetch-site") != "" { // a page in the operator's browser
				Fail(w, http.StatusForbidden, "browsers are not served here")
				return
			}
			id, status, why := o.operator(r, route.May)
			if status != http.StatusOK {
				Fail(w, status, why)
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
			route.Serve(w, r, id)
		})
	}
	return mux
}

// maxRequest bounds what an operator sends.
const maxRequest = 8 << 20

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
