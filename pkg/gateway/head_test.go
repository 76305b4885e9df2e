package gateway

import (
	"strings"
	"testing"
)

func TestOrigins(t *testing.T) {
	l := &Listener{Origins: []string{"https://app.example.org", "http://localhost:*", "http://[::1]:*"}}
	for origin, want := range map[string]bool{
		"https://app.example.org": true, "http://localhost": true, "http://localhost:3000": true, "http://[::1]:80": true,
		"": false, "null": false, "http://app.example.org": false, "https://app.example.org:443": false, "https://app.example.org.evil": false, "https://localhost:1": false,
		"http://localhost:": false, "http://localhost:80x": false, "http://localhost:80/x": false, "http://localhost.evil": false,
	} {
		if l.allows(origin) != want {
			t.Errorf("%q: %v", origin, !want)
		}
	}
}

func TestAccepts(t *testing.T) {
	for _, c := range []struct {
		lines string // by |
		want  bool
	}{
		{"text/event-stream", true},
		{"*/*", true},
		{"text/*", true},
		{"TEXT/Event-Stream", true},
		{"application/json | text/event-stream", true},
		{"application/json, text/event-stream;q=0.001", true},
		{"text/event-stream; q=1", true},
		{"text/event-stream;charset=x", true},
		{"", false},
		{"application/json", false},
		{"application/*", false},
		{"text/event-stream;q=0", false},
		{"text/event-stream; q=0.000", false},
		{"text/event-stream; Q=0.0", false},
		{"text", false},
	} {
		if accepts(strings.Split(c.lines, " | "), "text/event-stream") != c.want {
			t.Errorf("%q: %v", c.lines, !c.want)
		}
	}
}

// TestTravels: what a client sent and a server may read. Whatever is not named here stays behind.
func TestTravels(t *testing.T) {
	s := &Server{ForwardHeaders: map[string]bool{"x-team": true}}
	h := fields{
		"accept", "", "content-type", "", "content-length", "", "user-agent", "", "mcp-method", "", "mcp-param-region", "", "traceparent", "", "tracestate", "", "x-team", "",
		"authorization", "", "x-api-key", "", "cookie", "", "x-forwarded-user", "", "x-tenant-id", "", "mcp-session-id", "", "last-event-id", "", "origin", "", "forwarded", "", "anything", "",
	}
	want := "authorization x-api-key cookie x-forwarded-user x-tenant-id mcp-session-id last-event-id origin forwarded anything"
	if got := strings.Join(removals(h, s), " "); got != want {
		t.Errorf("removed are %s", got)
	}
	if got := strings.Join(removals(h, nil), " "); !strings.Contains(got, "x-team") {
		t.Errorf("removed are %s", got)
	}
}
