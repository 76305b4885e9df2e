package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/mcpgw/mcpgw/pkg/xds"
	"github.com/mcpgw/mcpgw/test/harness"
)

// act is what a bad processor does, moment when it does it.
type (
	act    string
	moment string
)

const (
	ends   act = "ends its stream well"
	fails  act = "ends its stream with an error"
	cuts   act = "cuts the connection"
	hangs  act = "hangs"
	passes act = "lets everything pass"
	errs   act = "answers another question"
	sleeps act = "names a server but keeps the old route"
	lies   act = "names a server that does not exist"

	atFirst    moment = "before any reply"
	afterHead  moment = "after the reply to the headers"
	atTheBody  moment = "at the body"
	throughout moment = "throughout"
)

// badProcessor stands where mcpgw should.
type badProcessor struct {
	extprocv3.UnimplementedExternalProcessorServer
	mu          sync.Mutex
	act         act
	moment      moment
	connections []net.Conn
}

func (p *badProcessor) set(a act, m moment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.act, p.moment = a, m
}

// serve puts the processor on a socket until the test ends.
func (p *badProcessor) serve(t testing.TB, socket string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(socket) // a killed mcpgw leaves it behind
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(8 << 20))
	extprocv3.RegisterExternalProcessorServer(g, p)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(tap{l, p}) }() // ends with Stop
	t.Cleanup(func() { g.Stop(); <-done })
}

// tap remembers connections, so that they can be cut.
type tap struct {
	net.Listener
	p *badProcessor
}

func (l tap) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.p.mu.Lock()
		l.p.connections = append(l.p.connections, c)
		l.p.mu.Unlock()
	}
	return c, err
}

func (p *badProcessor) do(ctx context.Context, a act) error {
	switch a {
	case fails:
		return status.Error(codes.Internal, "as asked")
	case cuts:
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, c := range p.connections {
			_ = c.Close()
		}
		p.connections = nil
	case hangs:
		<-ctx.Done()
	}
	return nil
}

func (p *badProcessor) Process(g extprocv3.ExternalProcessor_ProcessServer) error {
	p.mu.Lock()
	a, m := p.act, p.moment
	p.mu.Unlock()
	first, err := g.Recv()
	if err != nil {
		return err
	}
	last := first.GetRequestHeaders().GetEndOfStream()
	headReply := &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{}}}
	bodyReply := func(c *extprocv3.CommonResponse) *extprocv3.ProcessingResponse {
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{Response: c}}}
	}
	if m == atFirst {
		return p.do(g.Context(), a)
	}
	if a == errs {
		return g.Send(bodyReply(&extprocv3.CommonResponse{}))
	}
	if err := g.Send(headReply); err != nil {
		return err
	}
	if last {
		return nil
	}
	if m == afterHead {
		return p.do(g.Context(), a)
	}
	message, err := g.Recv()
	if err != nil {
		return err
	}
	if m == atTheBody {
		return p.do(g.Context(), a)
	}
	switch a {
	case sleeps, lies:
		backend := "s/a"
		if a == lies {
			backend = "s/nobody"
		}
		id := "null"
		var body struct {
			ID json.RawMessage `json:"id"`
		}
		if json.Unmarshal(message.GetRequestBody().GetBody(), &body) == nil && body.ID != nil {
			id = string(body.ID)
		}
		reply := bodyReply(&extprocv3.CommonResponse{ClearRouteCache: a == lies, HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{
			{Header: &corev3.HeaderValue{Key: xds.HeaderBackend, RawValue: []byte(backend)}},
		}}})
		if reply.DynamicMetadata, err = structpb.NewStruct(map[string]any{xds.Metadata: map[string]any{"id_json": id, "lane": "direct", "server": "a", "era": "modern"}}); err != nil {
			return err
		}
		return g.Send(reply)
	}
	return g.Send(bodyReply(&extprocv3.CommonResponse{}))
}

// shape is one way to ask.
type shape struct {
	name     string
	raw      string // an HTTP/1.1 request as it goes over the wire; "" for HTTP/2
	method   string
	body     bool // ext_proc gets a body message
	trailers bool // of an HTTP/2 request
}

const callBody = `{"jsonrpc":"2.0","id":9007199254740993,"method":"tools/call","params":{"name":"a_echo","arguments":{"text":"never"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`

// shapes are the requests of the facts' table.
func shapes() []shape {
	head := "Host: localhost\r\nAuthorization: Bearer " + key + "\r\nAccept: application/json, text/event-stream\r\nContent-Type: application/json\r\n" +
		"MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: a_echo\r\nX-Mcpgw-Backend: s/a\r\n"
	plain := func(method, more, body string) string {
		return method + " /mcp HTTP/1.1\r\n" + head + more + "\r\n" + body
	}
	length := fmt.Sprintf("Content-Length: %d\r\n", len(callBody))
	chunked := fmt.Sprintf("%x\r\n%s\r\n%x\r\n%s\r\n0\r\n", 20, callBody[:20], len(callBody)-20, callBody[20:])
	return []shape{
		{name: "POST", raw: plain("POST", length, callBody), body: true},
		{name: "PUT", raw: plain("PUT", length, callBody), body: true},
		{name: "GET", raw: plain("GET", "", "")},
		{name: "DELETE", raw: plain("DELETE", "", "")},
		{name: "HEAD", raw: plain("HEAD", "", "")},
		{name: "OPTIONS", raw: plain("OPTIONS", "", "")},
		{name: "chunked", raw: plain("POST", "Transfer-Encoding: chunked\r\n", chunked+"\r\n"), body: true},
		{name: "chunked with trailers", raw: plain("POST", "Transfer-Encoding: chunked\r\nTrailer: X-Mcpgw-Backend\r\n", chunked+"X-Mcpgw-Backend: s/a\r\n\r\n"), body: true},
		{name: "Expect: 100-continue", raw: plain("POST", "Expect: 100-continue\r\n"+length, callBody), body: true},
		{name: "empty POST", raw: plain("POST", "Content-Length: 0\r\n", "")},
		{name: "websocket", raw: plain("GET", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", "")},
		{name: "websocket by POST", raw: plain("POST", "Connection: Upgrade\r\nUpgrade: websocket\r\n"+length, callBody), body: true},
		{name: "h2c upgrade", raw: plain("GET", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n", "")},
		{name: "CONNECT", raw: "CONNECT localhost:443 HTTP/1.1\r\n" + head + "\r\n"},
		{name: "HTTP/2 POST", method: http.MethodPost, body: true},
		{name: "HTTP/2 POST with trailers", method: http.MethodPost, body: true, trailers: true},
	}
}

// ask sends a shape on a connection of its own.
func (s shape) ask(address string) (page, error) {
	if s.raw == "" {
		return s.askHTTP2(address)
	}
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return page{}, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return page{}, err
	}
	if _, err := io.WriteString(c, s.raw); err != nil {
		return page{}, err
	}
	method, _, _ := strings.Cut(s.raw, " ")
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return page{}, err
		}
		if r.StatusCode == http.StatusContinue {
			continue
		}
		body, err := io.ReadAll(r.Body)
		return page{r.StatusCode, r.Header, body}, err
	}
}

func (s shape) askHTTP2(address string) (page, error) {
	t := &http.Transport{Protocols: new(http.Protocols)}
	t.Protocols.SetUnencryptedHTTP2(true)
	defer t.CloseIdleConnections()
	r, err := http.NewRequest(s.method, "http://"+address+"/mcp", io.NopCloser(strings.NewReader(callBody)))
	if err != nil {
		return page{}, err
	}
	r.Header = http.Header{
		"Authorization": {"Bearer " + key}, "Accept": {"application/json, text/event-stream"}, "Content-Type": {"application/json"},
		"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"a_echo"}, "X-Mcpgw-Backend": {"s/a"},
	}
	if s.trailers {
		r.Trailer = http.Header{"X-Mcpgw-Backend": {"s/a"}}
	}
	response, err := (&http.Client{Transport: t, Timeout: patience}).Do(r)
	if err != nil {
		return page{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return page{response.StatusCode, response.Header, body}, err
}

// want is the status of a shape, and whether the caller's id is known.
func (s shape) want(a act, m moment) (status int, id string) {
	judged := s.body && m != atFirst // the processor's misdeed comes at the body
	switch {
	case strings.HasPrefix(s.name, "websocket"):
		return http.StatusForbidden, "null" // no upgrade is configured; nobody is asked
	case s.name == "CONNECT" && a == hangs:
		return http.StatusRequestTimeout, "null" // the time to send a request is over before the time to judge it
	case a == hangs && (m == atFirst || judged):
		return http.StatusGatewayTimeout, "null"
	case s.name == "CONNECT" && a == ends && m != atTheBody:
		return http.StatusNotFound, "null"
	case s.name == "CONNECT" && m != atFirst && a != errs && m != afterHead:
		return http.StatusRequestTimeout, "null" // it waits for a body that never comes
	case judged && (a == sleeps || a == lies):
		return http.StatusOK, "9007199254740993"
	}
	return http.StatusServiceUnavailable, "null"
}

// TestFailClosed puts a processor that misbehaves in mcpgw's place, before the Envoy configuration that mcpgw ships, and asks in
// every way: nothing reaches a server, and every answer is JSON-RPC.
func TestFailClosed(t *testing.T) {
	for _, f := range []front{static, ads} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			b := harness.StartBackend(t, harness.Modern, nil)
			s := start(t, f, mainListener+servers(map[string]string{"a": b.URL})+"\nlimits: { upload: 1s }\n")
			s.await(t, "a_echo")
			s.mcpgw.Kill(t)
			b.Forget()
			address := s.address(t, "main")

			t.Run("nobody", func(t *testing.T) { refusedAll(t, s, b, address, cuts, atFirst) })
			p := &badProcessor{}
			p.serve(t, filepath.Join(s.run, "mcpgw.sock"))
			for _, a := range []act{ends, fails, cuts, hangs} {
				for _, m := range []moment{atFirst, afterHead, atTheBody} {
					p.set(a, m)
					t.Run(string(a)+" "+string(m), func(t *testing.T) { refusedAll(t, s, b, address, a, m) })
				}
			}
			for _, a := range []act{passes, errs, sleeps, lies} {
				p.set(a, throughout)
				t.Run(string(a), func(t *testing.T) { refusedAll(t, s, b, address, a, throughout) })
			}
		})
	}
}

// refusedAll asks in every shape at once. What the processor let pass without a route is counted by the cluster without endpoints.
func refusedAll(t *testing.T, s *site, b *harness.Backend, address string, a act, m moment) {
	counter := "cluster.refuse.upstream_cx_none_healthy"
	before := s.stat(t, counter)
	var all sync.WaitGroup
	var unrouted int
	for _, shape := range shapes() {
		if shape.name == "CONNECT" && a == cuts && m == atTheBody {
			continue // another shape's cut reaches its stream, or comes before it
		}
		if (a == ends || a == passes) && shape.isCall() {
			unrouted++
		}
		all.Go(func() {
			status, id := shape.want(a, m)
			got, err := shape.ask(address)
			if err != nil {
				t.Errorf("%s: %v", shape.name, err)
				return
			}
			if got.status != status {
				t.Errorf("%s: status %d, want %d: %.300s", shape.name, got.status, status, got.body)
			}
			if shape.name == "HEAD" {
				if len(got.body) != 0 {
					t.Errorf("HEAD has a body: %q", got.body)
				}
				return
			}
			var reply struct {
				JSONRPC string          `json:"jsonrpc"`
				ID      json.RawMessage `json:"id"`
				Error   struct {
					Code int `json:"code"`
				} `json:"error"`
			}
			if err := json.Unmarshal(got.body, &reply); err != nil || reply.JSONRPC != "2.0" || string(reply.ID) != id || reply.Error.Code == 0 ||
				got.header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: %d %s %.300q, want JSON-RPC with id %s (%v)", shape.name, got.status, got.header.Get("Content-Type"), got.body, id, err)
			}
			if bytes.Contains(got.body, []byte("sock")) || bytes.Contains(got.body, []byte("127.0.0.1")) || bytes.Contains(got.body, []byte("as asked")) {
				t.Errorf("%s tells what is none of a client's business: %s", shape.name, got.body)
			}
		})
	}
	all.Wait()
	b.Untouched(t)
	if a == ends || a == passes {
		if n := s.stat(t, counter) - before; n != uint64(unrouted) {
			t.Errorf("%s counts %d unrouted calls, want %d", counter, n, unrouted)
		}
	}
	if n := s.stat(t, "http.ingress.ext_proc.failure_mode_allowed"); n != 0 {
		t.Errorf("%d requests passed because nobody was there to judge them", n)
	}
}

// isCall tells whether Envoy routes the shape to the cluster without endpoints before anyone has decided.
func (s shape) isCall() bool {
	return (s.method == http.MethodPost || strings.HasPrefix(s.raw, "POST")) && !strings.HasPrefix(s.name, "websocket")
}
