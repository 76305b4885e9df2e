package xds

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// binary finds the real Envoy. Without it these tests mean nothing, so they fail.
func binary(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("ENVOY"); p != "" {
		return p
	}
	if p, err := filepath.Abs("../../.tools/envoy/envoy/_bin/envoy"); err == nil {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	p, err := exec.LookPath("envoy")
	if err != nil {
		t.Fatal("no Envoy: run `make tools`, or name one in $ENVOY")
	}
	return p
}

// short makes a folder whose socket paths fit the kernel's 107 bytes.
func short(t testing.TB) string {
	t.Helper()
	d, err := os.MkdirTemp("", "x")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

func token() string { return strings.Repeat("0a", 32) }

// full is a world that uses every setting.
func full(t testing.TB, dir string) World {
	ca := writeCA(t, dir)
	return World{
		Listeners: []Listener{
			{Name: "main", Address: "127.0.0.1:0", TrustedHops: 1},
			{Name: "tls", Address: "127.0.0.1:0", TLS: &ServerTLS{CertFile: filepath.Join(dir, "leaf.pem"), KeyFile: filepath.Join(dir, "leaf.key")}, ClientTrace: ClientTraceLink},
			{Name: "sock", Address: filepath.Join(dir, "in.sock")},
		},
		Servers: []Server{
			{Name: "time", URL: "http://time.internal/mcp", Socket: filepath.Join(dir, "time.sock")},
			{
				Name: "search", URL: "https://localhost:23443/a%20b/mcp",
				TLS:         ClientTLS{CAFile: ca, ClientCertFile: filepath.Join(dir, "leaf.pem"), ClientKeyFile: filepath.Join(dir, "leaf.key")},
				Credentials: []Credential{{Header: "Authorization", Prefix: "Bearer ", Value: "s3cret"}, {Header: "x-team", Env: "HOME"}},
			},
			{Name: "many", URL: "http://127.0.0.1:8089", HTTP2: true, Sticky: true},
		},
		Sockets:     Sockets{GRPC: filepath.Join(dir, "g.sock"), Broker: filepath.Join(dir, "b.sock"), Egress: filepath.Join(dir, "e.sock"), Admin: filepath.Join(dir, "a.sock")},
		EgressToken: token(),
		Telemetry:   Telemetry{OTLP: "127.0.0.1:4317", OTLPTLS: true, OTLPCA: ca, Sampling: 1, AccessLog: true, Guard: true},
		Overload:    Overload{MaxHeap: 1 << 30, MaxConnections: 5000},
	}
}

func validate(t testing.TB, name string, config []byte) {
	t.Helper()
	path := filepath.Join(short(t), name+".yaml")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary(t), "--mode", "validate", "--disable-hot-restart", "-c", path).CombinedOutput()
	if err != nil {
		t.Fatalf("envoy refuses %s: %v\n%s\n%s", name, err, out, config)
	}
	for _, l := range strings.Split(string(out), "\n") {
		if strings.Contains(l, "[warning]") || strings.Contains(l, "[error]") {
			t.Errorf("%s: %s", name, l)
		}
	}
}

// The real Envoy takes both files, without a warning.
func TestEnvoyValidates(t *testing.T) {
	dir := short(t)
	w := full(t, dir)
	for name, render := range map[string]func(World) ([]byte, error){"static": Static, "bootstrap": Bootstrap} {
		config, err := render(w)
		if err != nil {
			t.Fatal(err)
		}
		again, err := render(w)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(config, again) {
			t.Errorf("%s: two renderings differ", name)
		}
		validate(t, name, config)
	}
	config, err := Static(World{Sockets: w.Sockets, EgressToken: token()})
	if err != nil {
		t.Fatal(err)
	}
	validate(t, "empty", config)
}

// Every fault of a world is found, all at once.
func TestFaults(t *testing.T) {
	dir := short(t)
	for _, tc := range []struct {
		want  string
		spoil func(*World)
	}{
		{"egress token", func(w *World) { w.EgressToken = "abc" }},
		{"grpc socket", func(w *World) { w.Sockets.GRPC = "rel.sock" }},
		{"107 bytes", func(w *World) { w.Sockets.Admin = "/" + strings.Repeat("x", 107) }},
		{`server "Time"`, func(w *World) { w.Servers[0].Name = "Time" }},
		{"stands twice", func(w *World) { w.Servers[1].Name = w.Servers[0].Name }},
		{"want http or https", func(w *World) { w.Servers[0].URL = "ftp://x" }},
		{"no user, query", func(w *World) { w.Servers[0].URL = "http://u:p@x/" }},
		{"port", func(w *World) { w.Servers[0].URL = "http://x:99999/" }},
		{"come together", func(w *World) { w.Servers[1].TLS.ClientKeyFile = "" }},
		{"exactly one", func(w *World) { w.Servers[1].Credentials[0].File = "/x" }},
		{"line break", func(w *World) { w.Servers[1].Credentials[0].Value = "a\nb" }},
		{"can be set", func(w *World) { w.Servers[1].Credentials[0].Header = "x-mcpgw-backend" }},
		{"address", func(w *World) { w.Listeners[0].Address = "localhost:80" }},
		{"certificate and a key", func(w *World) { w.Listeners[1].TLS = &ServerTLS{} }},
		{"client trace", func(w *World) { w.Listeners[0].ClientTrace = "no" }},
		{"sampling", func(w *World) { w.Telemetry.Sampling = 101 }},
		{"collector", func(w *World) { w.Telemetry.OTLP = "nowhere" }},
		{"body limit", func(w *World) { w.Limits.Body = -1 }},
	} {
		w := full(t, dir)
		tc.spoil(&w)
		_, err := Static(w)
		if err == nil || !strings.Contains(strings.ToLower(fmt.Sprint(err)), strings.ToLower(tc.want)) {
			t.Errorf("want an error with %q, got %v", tc.want, err)
		}
	}
}
