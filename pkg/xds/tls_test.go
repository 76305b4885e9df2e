package xds

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tlsUpstream is a real HTTPS server with a given certificate; it says which header values it got.
func tlsUpstream(t testing.TB, cert, key, clientCA []byte) *httptest.Server {
	t.Helper()
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("content-type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"result":{"sni":%q,"proto":%q}}`, r.TLS.ServerName, r.Proto)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // failed handshakes are the point
	if clientCA != nil {
		s.TLS.ClientCAs = x509.NewCertPool()
		s.TLS.ClientCAs.AppendCertsFromPEM(clientCA)
		s.TLS.ClientAuth = tls.RequireAndVerifyClientCert
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// A server's certificate is verified: chain, time and name. What fails is told without an address.
func TestUpstreamTLS(t *testing.T) {
	dir := short(t)
	ours, other := newAuthority(t), newAuthority(t)
	ca := write(t, filepath.Join(dir, "ca.pem"), ours.pem)
	later, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	named, namedKey := ours.issue(t, later, "search.internal")
	byIP, byIPKey := ours.issue(t, later, "127.0.0.1")
	expired, expiredKey := ours.issue(t, past, "search.internal")
	foreign, foreignKey := other.issue(t, later, "search.internal")
	client, clientKey := ours.issue(t, later, "mcpgw")
	cert := write(t, filepath.Join(dir, "client.pem"), client)
	key := write(t, filepath.Join(dir, "client.key"), clientKey)

	w := plain(dir)
	add := func(name string, s *httptest.Server, c ClientTLS, h2 bool) {
		w.Servers = append(w.Servers, Server{Name: name, URL: s.URL + "/mcp", TLS: c, HTTP2: h2})
	}
	good := tlsUpstream(t, named, namedKey, nil)
	mutual := tlsUpstream(t, named, namedKey, ours.pem)
	add("right", good, ClientTLS{CAFile: ca, ServerName: "search.internal"}, false)
	add("right-h2", good, ClientTLS{CAFile: ca, ServerName: "search.internal"}, true)
	add("by-address", tlsUpstream(t, byIP, byIPKey, nil), ClientTLS{CAFile: ca}, false)
	add("mutual", mutual, ClientTLS{CAFile: ca, ServerName: "search.internal", ClientCertFile: cert, ClientKeyFile: key}, false)
	add("no-client-cert", mutual, ClientTLS{CAFile: ca, ServerName: "search.internal"}, false)
	add("wrong-name", good, ClientTLS{CAFile: ca, ServerName: "other.internal"}, false)
	add("name-from-url", good, ClientTLS{CAFile: ca}, false)
	add("expired", tlsUpstream(t, expired, expiredKey, nil), ClientTLS{CAFile: ca, ServerName: "search.internal"}, false)
	add("untrusted", tlsUpstream(t, foreign, foreignKey, nil), ClientTLS{CAFile: ca, ServerName: "search.internal"}, false)
	add("system-ca", good, ClientTLS{ServerName: "search.internal"}, false)

	h := newHouse(t, w)
	publish(t, h.pub, w)
	p := boot(t, h, w)
	base := p.at("main")
	c := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	for name, want := range map[string]string{
		"right": `"sni":"search.internal","proto":"HTTP/1.1"`, "right-h2": `"proto":"HTTP/2.0"`, "by-address": `"sni":""`, "mutual": `"sni":"search.internal"`,
		"no-client-cert": "", "wrong-name": "", "name-from-url": "", "expired": "", "untrusted": "", "system-ca": "",
	} {
		status, body, _ := post1(t, c, base+"/direct/"+name)
		refused := fmt.Sprintf(`"data":{"server":%q,"reason":"unavailable"}`, name)
		if status != 200 || want != "" && !strings.Contains(body, want) || want == "" && (!strings.Contains(body, refused) || !strings.Contains(body, bigID)) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	for stat, name := range map[string]string{"ssl.fail_verify_san": "wrong-name", "ssl.fail_verify_error": "expired"} {
		if n := p.stat("cluster.s/" + name + "." + stat); n == 0 {
			t.Errorf("%s of %s is 0", stat, name)
		}
	}
}

// Credentials replace the client's, change without touching a connection, and never show in the admin's dump.
func TestCredentials(t *testing.T) {
	dir := short(t)
	w := plain(dir, upstream(t, "a", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("content-type", "application/json")
		fmt.Fprintf(rw, `{"jsonrpc":"2.0","id":1,"result":{"got":%q}}`, r.Header["Authorization"][0]+" "+r.Header.Get("x-team")+" "+r.Header.Get("x-file")+" "+r.Header.Get("cookie"))
	}))
	secretFile := write(t, filepath.Join(dir, "secret"), []byte("from-file"))
	w.Servers[0].Credentials = []Credential{{Header: "Authorization", Prefix: "Bearer ", Value: "first-secret"}, {Header: "X-Team", Value: "blue"}, {Header: "x-file", File: secretFile}}
	h := newHouse(t, w)
	publish(t, h.pub, w)
	p := boot(t, h, w)
	base := p.at("main")
	c := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	for _, want := range []string{"Bearer first-secret blue from-file ", "Bearer second-secret blue from-file "} {
		if _, body, _ := post1(t, c, base+"/direct/a", "authorization", "Bearer client", "cookie", "a=b"); !strings.Contains(body, fmt.Sprintf("%q", want)) {
			t.Errorf("want %q in %s", want, body)
		}
		w.Servers[0].Credentials[0].Value = "second-secret"
		if want[7] == 'f' {
			if rep := publish(t, h.pub, w); rep.Resources != 1 {
				t.Errorf("a new secret sent %d resources", rep.Resources)
			}
		}
	}
	if n := p.stat("cluster_manager.cluster_modified"); n != 0 {
		t.Errorf("%d clusters modified", n)
	}
	if n := p.stat("cluster.s/a.upstream_cx_total"); n != 1 {
		t.Errorf("%d connections to the server", n)
	}
	if dump := p.get("/config_dump?include_eds"); strings.Contains(dump, "second-secret") {
		t.Error("the secret is in the dump")
	}
}

// A listener's certificate changes by a moved file or by a push, and no connection is cut for it.
func TestListenerCertificate(t *testing.T) {
	dir := short(t)
	a := newAuthority(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.pem)
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	put := func(name string) {
		cert, key := a.issue(t, time.Now().Add(time.Hour), name)
		for path, data := range map[string][]byte{keyFile: key, certFile: cert} {
			write(t, path+".new", data)
		}
		// The key first: the move of the certificate is what makes Envoy read a matching pair at the latest.
		for _, path := range []string{keyFile, certFile} {
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("one.test")
	w := plain(dir, upstream(t, "a", ok))
	w.Listeners[0].TLS = &ServerTLS{CertFile: certFile, KeyFile: keyFile}
	h := newHouse(t, w)
	publish(t, h.pub, w)
	p := boot(t, h, w)
	addr := strings.TrimPrefix(p.at("main"), "http://")
	served := func() string {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, &tls.Config{RootCAs: roots, InsecureSkipVerify: true}) // the name is what is asked
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].DNSNames[0]
	}
	if got := served(); got != "one.test" {
		t.Fatal(got)
	}
	put("two.test")
	eventually(t, "the moved certificate is served", func() bool { return served() == "two.test" })

	cert, key := a.issue(t, time.Now().Add(time.Hour), "three.test")
	w.Listeners[0].TLS = &ServerTLS{CertFile: certFile, KeyFile: keyFile, Cert: cert, Key: key}
	if rep := publish(t, h.pub, w); len(rep.Drained) != 0 || rep.Resources != 1 {
		t.Errorf("%+v", rep)
	}
	if got := served(); got != "three.test" {
		t.Error(got)
	}
	if n := p.stat("listener_manager.listener_modified") + p.stat("listener_manager.listener_in_place_updated"); n != 0 {
		t.Errorf("%d listeners modified", n)
	}
}
