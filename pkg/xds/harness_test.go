package xds

import (
	"context"
	"encoding/json"
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
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
)

// judge is an ext_proc of the tests' own. The path says what becomes of a request: /direct/<server>,
// /direct/<server>/legacy, /broker, and anything else is left unrouted.
type judge struct {
	extprocv3.UnimplementedExternalProcessorServer
	listener atomic.Value // what the stream said it came from
	head     sync.Map     // last request's headers
	address  atomic.Value // the client's, as the stream said
}

func (j *judge) Process(g extprocv3.ExternalProcessor_ProcessServer) error {
	if md, ok := metadata.FromIncomingContext(g.Context()); ok {
		j.listener.Store(strings.Join(md.Get(MetadataListener), ","))
		j.address.Store(strings.Join(md.Get(MetadataAddress), ","))
	}
	req, err := g.Recv()
	if err != nil {
		return err
	}
	head := map[string]string{}
	for _, h := range req.GetRequestHeaders().GetHeaders().GetHeaders() {
		head[h.Key] = string(h.RawValue)
		j.head.Store(h.Key, string(h.RawValue))
	}
	if head[":method"] == "POST" {
		if err := g.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{}}}); err != nil {
			return err
		}
		if req, err = g.Recv(); err != nil {
			return err
		}
	}
	part := strings.Split(strings.Trim(head[":path"], "/"), "/")
	meta := map[string]any{"era": "modern"}
	backend := ""
	switch {
	case part[0] == "broker":
		backend = Broker
		meta["lane"] = "broker"
	case part[0] == "direct" && len(part) > 1:
		backend = Backend(part[1])
		meta["lane"], meta["server"] = "direct", part[1]
		if len(part) > 2 {
			meta["era"] = part[2]
		}
	case part[0] == "own":
		s, _ := structpb.NewStruct(map[string]any{Metadata: map[string]any{"own_reply": true, "id_json": "1"}})
		return g.Send(&extprocv3.ProcessingResponse{DynamicMetadata: s, Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
			Status: &typev3.HttpStatus{Code: 429}, Body: []byte("own words"),
		}}})
	}
	common := &extprocv3.CommonResponse{}
	out := &extprocv3.ProcessingResponse{}
	if backend != "" {
		var body struct {
			ID json.RawMessage `json:"id"`
		}
		_ = json.Unmarshal(req.GetRequestBody().GetBody(), &body)
		meta["id_json"] = "null"
		if body.ID != nil {
			meta["id_json"] = string(body.ID)
		}
		if out.DynamicMetadata, err = structpb.NewStruct(map[string]any{Metadata: meta}); err != nil {
			return err
		}
		common.ClearRouteCache = true
		common.HeaderMutation = &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{
			{Header: &corev3.HeaderValue{Key: HeaderBackend, RawValue: []byte(backend)}},
			{Header: &corev3.HeaderValue{Key: HeaderExchange, RawValue: []byte("ticket")}},
		}}
	}
	if head[":method"] == "POST" {
		out.Response = &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{Response: common}}
	} else {
		out.Response = &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: common}}
	}
	return g.Send(out)
}

// logSink takes access log records.
type logSink struct {
	alsv3.UnimplementedAccessLogServiceServer
	entries atomic.Int64
	last    atomic.Value // the newest record, as text
	byAgent sync.Map     // what the response script wrote, by the request's user-agent
}

func (s *logSink) StreamAccessLogs(g alsv3.AccessLogService_StreamAccessLogsServer) error {
	for {
		m, err := g.Recv()
		if err != nil {
			return err
		}
		for _, e := range m.GetHttpLogs().GetLogEntry() {
			s.last.Store(e.String())
			s.byAgent.Store(e.GetRequest().GetUserAgent(), e.GetCommonProperties().GetMetadata().GetFilterMetadata()[Outcomes].AsMap())
			s.entries.Add(1)
		}
	}
}

// house is mcpgw's side of the sockets.
type house struct {
	judge *judge
	logs  *logSink
	pub   *Publisher
	stop  func()
}

func newHouse(t testing.TB, w World) *house {
	t.Helper()
	h := &house{judge: &judge{}, logs: &logSink{}, pub: NewPublisher(slog.New(slog.DiscardHandler))}
	_ = os.Remove(w.Sockets.GRPC)
	l, err := net.Listen("unix", w.Sockets.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(16 << 20))
	extprocv3.RegisterExternalProcessorServer(g, h.judge)
	alsv3.RegisterAccessLogServiceServer(g, h.logs)
	h.pub.Register(g)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	var once sync.Once
	h.stop = func() { once.Do(func() { g.Stop(); <-done }) }
	t.Cleanup(h.stop)
	return h
}

// proxy is one running Envoy.
type proxy struct {
	t     testing.TB
	admin http.Client
	cmd   *exec.Cmd
	gone  chan struct{}
}

func startEnvoy(t testing.TB, w World, config []byte) *proxy {
	t.Helper()
	dir := filepath.Dir(w.Sockets.Admin)
	path := write(t, filepath.Join(dir, fmt.Sprintf("envoy%d.yaml", time.Now().UnixNano())), config)
	logPath := path + ".log"
	logFile, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(w.Sockets.Admin)
	cmd := exec.Command(binary(t), "-c", path, "--disable-hot-restart", "--concurrency", "1", "-l", "info", "--drain-time-s", "2", "--drain-strategy", "immediate")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, cmd: cmd, gone: make(chan struct{}), admin: http.Client{Timeout: 10 * time.Second, Transport: unixTransport(w.Sockets.Admin)}}
	go func() { _ = cmd.Wait(); close(p.gone) }()
	t.Cleanup(func() {
		p.stop()
		logFile.Close()
		if t.Failed() {
			out, _ := os.ReadFile(logPath)
			t.Logf("envoy said:\n%s", tail(out, 6000))
		}
	})
	return p
}

func (p *proxy) stop() {
	select {
	case <-p.gone:
		return
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.gone:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.gone
	}
	p.admin.CloseIdleConnections()
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func unixTransport(path string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
}

func (p *proxy) get(path string) string {
	p.t.Helper()
	r, err := p.admin.Get("http://admin" + path)
	if err != nil {
		p.t.Fatalf("admin %s: %v", path, err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// live waits until Envoy serves.
func (p *proxy) live() *proxy {
	p.t.Helper()
	eventually(p.t, "envoy is live", func() bool {
		r, err := p.admin.Get("http://admin/ready")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return strings.TrimSpace(string(b)) == "LIVE"
	})
	return p
}

// eventually polls for what no event announces.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("not in time: %s", what)
}

// at is the base URL of a listener.
func (p *proxy) at(listener string) string {
	p.t.Helper()
	var v struct {
		Statuses []struct {
			Name  string `json:"name"`
			Local struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal([]byte(p.get("/listeners?format=json")), &v); err != nil {
		p.t.Fatal(err)
	}
	for _, s := range v.Statuses {
		if s.Name == "in/"+listener {
			return fmt.Sprintf("http://%s:%d", s.Local.Socket.Address, s.Local.Socket.Port)
		}
	}
	p.t.Fatalf("no listener %q", listener)
	return ""
}

// stat reads one counter or gauge; 0 where Envoy does not know it yet.
func (p *proxy) stat(name string) int {
	p.t.Helper()
	for _, l := range strings.Split(p.get("/stats?filter=^"+strings.ReplaceAll(name, ".", "\\.")+"$"), "\n") {
		var v int
		if n, ok := strings.CutPrefix(l, name+": "); ok {
			if _, err := fmt.Sscan(n, &v); err == nil {
				return v
			}
		}
	}
	return 0
}

// plain is a small world for listener "main" in a folder.
func plain(dir string, servers ...Server) World {
	return World{
		Listeners:   []Listener{{Name: "main", Address: "127.0.0.1:0"}},
		Servers:     servers,
		Sockets:     Sockets{GRPC: filepath.Join(dir, "g"), Broker: filepath.Join(dir, "b"), Egress: filepath.Join(dir, "e"), Admin: filepath.Join(dir, "a")},
		EgressToken: token(),
		Telemetry:   Telemetry{AccessLog: true, Guard: true},
		Overload:    Overload{MaxHeap: 1 << 30, MaxConnections: 10_000},
	}
}

// upstream is a real HTTP server and its description.
func upstream(t testing.TB, name string, h http.HandlerFunc) Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return Server{Name: name, URL: s.URL + "/mcp"}
}

func ok(w http.ResponseWriter, r *http.Request) {
	var m struct {
		ID json.RawMessage `json:"id"`
	}
	_ = json.NewDecoder(r.Body).Decode(&m)
	w.Header().Set("content-type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"host":%q,"path":%q}}`, m.ID, r.Host, r.URL.RequestURI())
}

const bigID = "9007199254740993"

// post sends one call and returns status, body and headers.
func post1(t testing.TB, c *http.Client, url string, header ...string) (int, string, http.Header) {
	t.Helper()
	status, body, h, err := try(c, url, header...)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return status, body, h
}

func try(c *http.Client, url string, header ...string) (int, string, http.Header, error) {
	req, err := http.NewRequest("POST", url, strings.NewReader(`{"jsonrpc":"2.0","id":`+bigID+`,"method":"tools/call","params":{"name":"x"}}`))
	if err != nil {
		return 0, "", nil, err
	}
	req.Header.Set("content-type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	r, err := c.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), r.Header, err
}
