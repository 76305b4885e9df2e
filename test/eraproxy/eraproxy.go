// Package eraproxy joins two MCP servers, a stateless one that speaks 2026-07-28 and a stateful one
// that speaks the revisions before it, to one server that speaks both. The go-sdk's handler is either
// the one or the other, and the conformance suite's two requirement sets need both at one address.
package eraproxy

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
)

// modern is the first revision without sessions. Revisions are dates: text order is time order.
const modern = "2026-07-28"

// maxBody bounds what is read to find out which era a request belongs to.
const maxBody = 8 << 20

// New returns the joined server. A request is modern when its MCP-Protocol-Version header or its
// body's own claim says so; whether the two agree is for the stateless server to judge. Everything
// else, GET and DELETE included, is for the stateful one. Host and Origin travel on unchanged, since
// both servers guard against DNS rebinding by them.
func New(stateless, stateful *url.URL) http.Handler {
	newer, older := forward(stateless), forward(stateful)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			http.Error(w, "the request body is too large or was cut", http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.ContentLength = int64(len(body))
		if r.Header.Get("MCP-Protocol-Version") >= modern || claim(body) >= modern {
			newer.ServeHTTP(w, r)
			return
		}
		older.ServeHTTP(w, r)
	})
}

func forward(to *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
		},
		FlushInterval: -1, // each event as it comes
	}
}

// claim returns the revision that the body itself names, "" where it names none or cannot be read.
func claim(body []byte) string {
	var message struct {
		Params struct {
			Meta struct {
				Version string `json:"io.modelcontextprotocol/protocolVersion"`
			} `json:"_meta"`
		} `json:"params"`
	}
	if json.Unmarshal(body, &message) != nil {
		return ""
	}
	return message.Params.Meta.Version
}
