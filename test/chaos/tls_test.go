package chaos

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/test/harness"
)

// TestTLSToServers: a server's certificate is always verified; where it is wrong the call gets the fixed error, without an address,
// and the other servers are served.
func TestTLSToServers(t *testing.T) {
	authority, stranger := harness.NewAuthority(t), harness.NewAuthority(t)
	later := time.Now().Add(time.Hour)
	good := authority.Issue(t, "127.0.0.1", later)
	own := authority.Issue(t, "gateway", later)
	foreign := stranger.Issue(t, "gateway", later)
	for _, c := range []struct {
		name    string
		shows   harness.Certificate
		clients *harness.Authority
		tls     string // besides the authority
		fine    bool
	}{
		{name: "right", shows: good, fine: true},
		{name: "named", shows: authority.Issue(t, "search.internal", later), tls: ", server_name: search.internal", fine: true},
		{name: "expired", shows: authority.Issue(t, "127.0.0.1", time.Now().Add(-time.Hour))},
		{name: "untrusted", shows: stranger.Issue(t, "127.0.0.1", later)},
		{name: "misnamed", shows: authority.Issue(t, "elsewhere.example", later)},
		{name: "client", shows: good, clients: authority, tls: client(own), fine: true},
		{name: "client-none", shows: good, clients: authority},
		{name: "client-foreign", shows: good, clients: authority, tls: client(foreign)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			secure := harness.StartSecureBackend(t, harness.Dual, c.shows, c.clients)
			plain := harness.StartBackend(t, harness.Modern, nil)
			front := fronts[len(c.name)%len(fronts)] // each way of configuring Envoy gets some of the cases
			text := func(url string) string {
				return mainListener + fmt.Sprintf("\nservers:\n  - { name: a, http: { url: %q, tls: { ca_file: %q%s } } }\n  - { name: b, http: { url: %q } }\n", url, authority.CertFile, c.tls, plain.URL)
			}
			s := start(t, front, text(secure.URL))
			s.await(t, "b_echo")
			clients := []*harness.Client{harness.NewModern(s.url, key), harness.OpenLegacy(t, s.url, key, harness.R20251125)}
			for _, m := range clients {
				if got := m.Tool(t, "b_echo", map[string]any{"text": "b"}).Text(t); got != "b" {
					t.Error(got)
				}
			}
			if c.fine {
				s.await(t, "a_echo")
				for _, m := range clients {
					if got := m.Tool(t, "a_echo", map[string]any{"text": "a"}).Text(t); got != "a" {
						t.Error(got)
					}
				}
				return
			}
			harness.Eventually(t, patience, "the catalog says that the server is unavailable", func() bool {
				r := command(t, s.dir, "catalog", "--config", s.file)
				return r.status == 0 && strings.Contains(r.stdout, "unavailable")
			})
			if n := len(secure.Requests()); n != 0 {
				t.Errorf("%d requests reached the server", n)
			}
		})
	}
}

func client(c harness.Certificate) string {
	return fmt.Sprintf(", client_cert_file: %q, client_key_file: %q", c.CertFile, c.KeyFile)
}

// TestCertificateGoesBad: a server whose items are known and whose certificate is wrong from now on answers with the fixed error.
func TestCertificateGoesBad(t *testing.T) {
	authority := harness.NewAuthority(t)
	for name, bad := range map[string]harness.Certificate{
		"expired":   authority.Issue(t, "127.0.0.1", time.Now().Add(-time.Hour)),
		"untrusted": harness.NewAuthority(t).Issue(t, "127.0.0.1", time.Now().Add(time.Hour)),
		"misnamed":  authority.Issue(t, "elsewhere.example", time.Now().Add(time.Hour)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shown := authority.Issue(t, "127.0.0.1", time.Now().Add(time.Hour))
			secure := harness.StartSecureBackend(t, harness.Dual, shown, nil)
			plain := harness.StartBackend(t, harness.Modern, nil)
			s := start(t, run, mainListener+fmt.Sprintf("\nservers:\n  - { name: a, http: { url: %q, tls: { ca_file: %q } } }\n  - { name: b, http: { url: %q } }\n", secure.URL, authority.CertFile, plain.URL))
			s.await(t, "a_echo")
			s.await(t, "b_echo")
			clients := []*harness.Client{harness.NewModern(s.url, key), harness.OpenLegacy(t, s.url, key, harness.R20251125)}
			secure.Down()
			secure.Show(bad)
			secure.Up(t)
			secure.Forget()
			for _, m := range clients {
				r := m.CallID(t, "9007199254740993", "tools/call", map[string]any{"name": "a_echo", "arguments": map[string]any{"text": "a"}})
				got := r.Response(t)
				var data struct{ Server, Reason string }
				if got.Error == nil || got.Error.Code != -32603 || string(got.ID) != "9007199254740993" || r.Status != 200 ||
					json.Unmarshal(got.Error.Data, &data) != nil || data.Server != "a" || data.Reason != "unavailable" {
					t.Errorf("%s: status %d %s", m.Revision, r.Status, r.Body)
				}
				if text := string(r.Body) + fmt.Sprint(r.Header); strings.Contains(text, "127.0.0.1") || strings.Contains(text, "CERT") || strings.Contains(text, "TLS") {
					t.Errorf("the answer tells what is none of a client's business: %s", text)
				}
				if got := m.Tool(t, "b_echo", map[string]any{"text": "b"}).Text(t); got != "b" {
					t.Error(got)
				}
			}
			secure.Untouched(t)
			secure.Down()
			secure.Show(shown)
			secure.Up(t)
			for _, m := range clients {
				harness.Eventually(t, patience, "a right certificate heals it", func() bool {
					return m.Tool(t, "a_echo", map[string]any{"text": "a"}).Response(t).Error == nil
				})
			}
		})
	}
}
