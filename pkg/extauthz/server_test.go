package extauthz

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/gateway"
)

func server(t testing.TB, report func(context.Context, *gateway.Exchange)) *Server {
	t.Helper()
	g, err := gateway.New(gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return New(Options{Gateway: g, Listener: "default", Server: "a", Report: report, Log: slog.New(slog.DiscardHandler)})
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// refused checks that a response is a refusal in every way in which Envoy looks at it, and JSON-RPC.
func refused(t failer, resp *authv3.CheckResponse, err error) {
	t.Helper()
	d := resp.GetDeniedResponse()
	var body struct {
		Version string          `json:"jsonrpc"`
		Error   json.RawMessage `json:"error"`
	}
	if err != nil || resp.GetStatus().GetCode() == int32(codes.OK) || d.GetStatus().GetCode() < 400 || json.Unmarshal([]byte(d.GetBody()), &body) != nil || body.Version != "2.0" || body.Error == nil {
		t.Fatalf("want a refusal, got %v %v", resp, err)
	}
}

// TestNothingIsAYes: whatever comes, a gateway that has no policy yet says no, and never by an empty response, which is a yes.
func TestNothingIsAYes(t *testing.T) {
	s := server(t, func(context.Context, *gateway.Exchange) {})
	for _, req := range []*authv3.CheckRequest{nil, {}, {Attributes: &authv3.AttributeContext{}}, {Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{}}}} {
		resp, err := s.Check(t.Context(), req)
		refused(t, resp, err)
	}
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.SampledFrom([]string{"", "POST", "GET", "false", "true", "3", "application/json", "/mcp", "Bearer x", "websocket"})
		r := &authv3.AttributeContext_HttpRequest{
			Method: word.Draw(t, "method"), Path: word.Draw(t, "path"), Size: rapid.Int64Range(-1, 9).Draw(t, "size"),
			Body: word.Draw(t, "text"), RawBody: []byte(word.Draw(t, "body")), Headers: map[string]string{},
		}
		for _, name := range []string{partial, "content-length", "content-type", "accept", "authorization", "upgrade"} {
			if v := word.Draw(t, name); v != "" {
				r.Headers[name] = v
			}
		}
		if rapid.Bool().Draw(t, "raw") {
			r.HeaderMap = &corev3.HeaderMap{}
			for k, v := range r.Headers {
				r.HeaderMap.Headers = append(r.HeaderMap.Headers, &corev3.HeaderValue{Key: k, RawValue: []byte(v)})
			}
		}
		resp, err := s.Check(context.Background(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: r}}})
		refused(t, resp, err)
	})
}

// TestPanicRefuses: a panic anywhere, the report included, is a no.
func TestPanicRefuses(t *testing.T) {
	s := server(t, func(context.Context, *gateway.Exchange) { panic("boom") })
	resp, err := s.Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
		Http: &authv3.AttributeContext_HttpRequest{Method: "POST", RawBody: []byte("{}"), Size: 2, Headers: map[string]string{partial: "false"}},
	}}})
	refused(t, resp, err)
}

// TestWhole: only a request that came as it is going to reach the server may be judged.
func TestWhole(t *testing.T) {
	post := func(change func(r *authv3.AttributeContext_HttpRequest)) *authv3.AttributeContext_HttpRequest {
		r := &authv3.AttributeContext_HttpRequest{Method: "POST", RawBody: []byte("{}"), Size: 2, Headers: map[string]string{partial: "false", "content-length": "2"}}
		change(r)
		return r
	}
	for name, tc := range map[string]struct {
		r    *authv3.AttributeContext_HttpRequest
		good bool
	}{
		"whole":          {post(func(*authv3.AttributeContext_HttpRequest) {}), true},
		"chunked":        {post(func(r *authv3.AttributeContext_HttpRequest) { delete(r.Headers, "content-length") }), true},
		"as text":        {post(func(r *authv3.AttributeContext_HttpRequest) { r.Body, r.RawBody = "{}", nil }), false},
		"no body sent":   {post(func(r *authv3.AttributeContext_HttpRequest) { delete(r.Headers, partial) }), false},
		"cut":            {post(func(r *authv3.AttributeContext_HttpRequest) { r.Headers[partial] = "true" }), false},
		"another size":   {post(func(r *authv3.AttributeContext_HttpRequest) { r.Size = 3 }), false},
		"another length": {post(func(r *authv3.AttributeContext_HttpRequest) { r.Headers["content-length"] = "3" }), false},
		"get": {post(func(r *authv3.AttributeContext_HttpRequest) {
			r.Method, r.RawBody, r.Size, r.Headers = "GET", nil, 0, nil
		}), true},
		"get with body text": {post(func(r *authv3.AttributeContext_HttpRequest) {
			r.Method, r.RawBody, r.Body, r.Headers = "GET", nil, "x", nil
		}), false},
	} {
		if f := whole(tc.r, headersOf(tc.r)); (f == nil) != tc.good {
			t.Errorf("%s: %v", name, f)
		}
	}
}
