package envoyproc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("MCPGW_TEST_PARENT"); dir != "" {
		parent(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// binary is the real Envoy. Without it these tests mean nothing, so they fail.
func binary(t testing.TB) string {
	t.Helper()
	if os.Getenv("ENVOY") == "" {
		p, err := filepath.Abs("../../" + tool)
		if err == nil && executable(p) == nil {
			return p
		}
	}
	p, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func short(t testing.TB) string {
	t.Helper()
	d, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

// config serves one port and sends everything to one upstream.
func config(dir, listen, upstream string) []byte {
	host, port, _ := net.SplitHostPort(listen)
	uhost, uport, _ := net.SplitHostPort(upstream)
	return fmt.Appendf(nil, `
admin: {address: {pipe: {path: %s/admin.sock, mode: 384}}}
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: %s, port_value: %s}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: up, timeout: 0s}}]}]}
          http_filters: [{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
  clusters: [{name: up, type: STATIC, load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}}]
`, dir, host, port, uhost, uport)
}

func options(t testing.TB, listen, upstream string) Options {
	dir := short(t)
	return Options{Binary: binary(t), Config: config(dir, listen, upstream), Dir: dir, Admin: dir + "/admin.sock", Concurrency: 1, DrainTime: time.Second, Log: slog.New(slog.DiscardHandler)}
}

func start(t testing.TB, o Options) *Process {
	t.Helper()
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.begone(); <-p.Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}

// ticks sends an event stream of n events, one each 50 ms.
func ticks(t testing.TB, n int) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("content-type", "text/event-stream")
		for i := range n {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-time.After(50 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func at(t testing.TB, p *Process) string {
	t.Helper()
	l, err := p.Admin().Listeners(t.Context())
	if err != nil || l["in"] == "" || strings.HasSuffix(l["in"], ":0") {
		t.Fatal(l, err)
	}
	return "http://" + l["in"]
}

// A stop waits for an event stream in flight, refuses what comes later, and leaves nothing behind.
func TestStopDrains(t *testing.T) {
	p := start(t, options(t, "127.0.0.1:0", ticks(t, 20)))
	url, pid := at(t, p), p.Pid()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer r.Body.Close()
	lines := bufio.NewReader(r.Body)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		stopped <- p.Stop(ctx)
	}()
	rest, err := io.ReadAll(lines)
	if err != nil || strings.Count(string(rest), "data:") != 19 {
		t.Errorf("stream was cut: %v, %q", err, rest)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
	if !gone(pid) {
		t.Error("Envoy is still there")
	}
}

// A stop without time ends it all the same, and says what was cut.
func TestStopDeadline(t *testing.T) {
	p := start(t, options(t, "127.0.0.1:0", ticks(t, 1000)))
	pid := p.Pid()
	r, err := http.Get(at(t, p))
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer r.Body.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx); err == nil || !strings.Contains(err.Error(), "1 requests had not ended") {
		t.Error(err)
	}
	if !gone(pid) {
		t.Error("Envoy is still there")
	}
}

// An Envoy that dies is replaced by another on the same address.
func TestRestart(t *testing.T) {
	port := freePort(t)
	p := start(t, options(t, port, ticks(t, 1)))
	pid := p.Pid()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); p.Pid() == pid || p.Pid() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not restarted")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	r, err := http.Get("http://" + port)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if p.Restarts() != 1 {
		t.Errorf("%d restarts", p.Restarts())
	}
	if stats, err := p.Admin().Stats(ctx, "^http.ingress.downstream_rq_"); err != nil || stats["http.ingress.downstream_rq_total"] != 1 {
		t.Error(stats, err)
	}
}

func freePort(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A fault at the start is told in Envoy's words, and not tried for ever.
func TestFailedStart(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	taken := options(t, busy.Addr().String(), "127.0.0.1:1")
	broken := options(t, "127.0.0.1:0", "127.0.0.1:1")
	broken.Config = []byte("static_resources: {clusters: [{nam: x}]}")
	missing := options(t, "127.0.0.1:0", "127.0.0.1:1")
	missing.Binary = "/nowhere/envoy"
	for want, o := range map[string]Options{"Address already in use": taken, "no such field: 'nam'": broken, "no such file": missing} {
		p, err := Start(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err = p.Ready(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in: %v", want, err)
		}
		if p.Wait() == nil || p.Pid() != 0 {
			t.Error("it did not end")
		}
	}
	if err := Free(t.Context(), busy.Addr().String()); err == nil || !strings.Contains(err.Error(), busy.Addr().String()+" is taken") {
		t.Error(err)
	}
	if err := Free(t.Context(), freePort(t)); err != nil {
		t.Error(err)
	}
	if err := Validate(t.Context(), binary(t), broken.Config); err == nil || !strings.Contains(err.Error(), "nam") {
		t.Error(err)
	}
	if err := Validate(t.Context(), binary(t), missing.Config); err != nil {
		t.Error(err)
	}
}

// Another Envoy of the same user shares its port unseen; Free sees it.
func TestFreeSeesAnotherEnvoy(t *testing.T) {
	port := freePort(t)
	start(t, options(t, port, "127.0.0.1:1"))
	if err := Free(t.Context(), port); err == nil {
		t.Error("the port counts as free")
	}
}

// The end of the context ends Envoy at once.
func TestContext(t *testing.T) {
	o := options(t, "127.0.0.1:0", "127.0.0.1:1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	pid := p.Pid()
	cancel()
	if err := p.Wait(); err != nil || !gone(pid) {
		t.Error(err, gone(pid))
	}
}

// parent is the process of TestParentDies: it starts Envoy, says its pid, and waits to be killed.
func parent(dir string) {
	p, err := Start(context.Background(), Options{
		Binary: os.Getenv("MCPGW_TEST_BINARY"), Config: config(dir, "127.0.0.1:0", "127.0.0.1:1"), Dir: dir, Admin: dir + "/admin.sock",
		Concurrency: 1, Log: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		err = p.Ready(context.Background())
	}
	fmt.Println(p.Pid(), err)
	select {}
}

// If mcpgw is killed, Envoy dies with it.
func TestParentDies(t *testing.T) {
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Log("only Linux ties the two lives together")
		return
	}
	dir := short(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "MCPGW_TEST_PARENT="+dir, "MCPGW_TEST_BINARY="+binary(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasSuffix(line, "<nil>\n") {
		t.Fatal(line, err)
	}
	var pid int
	_, _ = fmt.Sscan(line, &pid)
	if pid == 0 || gone(pid) {
		t.Fatal("no Envoy: ", line)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for end := time.Now().Add(10 * time.Second); !gone(pid) && !zombie(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("Envoy outlived its parent")
		}
	}
}

// zombie: dead, only not collected yet by whoever inherited it.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	return strings.HasPrefix(string(b[strings.LastIndexByte(string(b), ')')+1:]), " Z")
}

func TestVersion(t *testing.T) {
	if err := CheckVersion(t.Context(), binary(t)); err != nil {
		t.Error(err)
	}
	for out, fine := range map[string]bool{
		"envoy  version: abc/1.40.0/Clean/RELEASE/BoringSSL":     true,
		"envoy  version: abc/1.40.7-dev/Clean/RELEASE/BoringSSL": true,
		"envoy  version: abc/1.41.0/Clean/RELEASE/BoringSSL":     false,
		"envoy  version: abc/1.39.9/Clean/RELEASE/BoringSSL":     false,
		"nginx version": false,
	} {
		if err := checkVersion("x", out, "1.40.0"); (err == nil) != fine {
			t.Error(out, err)
		}
	}
}

// The log passes on, level by level, under a bound, at any boundary of writes.
func TestLog(t *testing.T) {
	var buf strings.Builder
	w := newLogWriter(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug})))
	for _, b := range []byte("warning\tmain\tlisten here\ncritical\tmain\tit broke\nno format\n") {
		_, _ = w.Write([]byte{b})
	}
	_, _ = w.Write([]byte(strings.Repeat("x", 1<<20)))
	w.flush()
	got := buf.String()
	for _, want := range []string{`level=WARN msg="listen here"`, `level=ERROR msg="it broke"`, `level=INFO msg="no format"`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	if len(got) > 2*maxLine {
		t.Errorf("%d bytes of one line", len(got))
	}
	if s := w.lastWords(); !strings.Contains(s, "listen here; it broke; no format") {
		t.Error(s[:100])
	}
	for range 1000 {
		_, _ = w.Write([]byte("error\tmain\tflood\n"))
	}
	if n := strings.Count(buf.String(), "flood"); n > perSecond {
		t.Errorf("%d lines passed", n)
	}
}
