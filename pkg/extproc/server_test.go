package extproc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/policy"
	"github.com/mcpgw/mcpgw/pkg/session"
)

// engine allows everything and breaks at one tool.
type engine struct{}

func (engine) Decide(_ context.Context, q *policy.Question) policy.Ruling {
	if q.Item.Name == "explode" {
		panic("as asked")
	}
	return policy.Ruling{Effect: policy.Allow}
}
func (engine) Visible(context.Context, *policy.Question) (bool, error) { return true, nil }
func (engine) ListKey(*policy.Question) (key [32]byte, ok bool)        { return key, true }
func (engine) Reads(*catalog.Item) (names []string, all bool)          { return nil, false }
func (engine) Labels() []string                                        { return nil }
func (engine) Revision() string                                        { return "r" }

type everybody struct{}

func (everybody) Current(p *identity.Principal) *identity.Principal { return p }

func (everybody) Authenticate(context.Context, []string, []string) (*identity.Principal, error) {
	return &identity.Principal{Type: "anonymous"}, nil
}

// peer is Envoy's end of the processor, over gRPC in this process.
type peer struct {
	client extprocv3.ExternalProcessorClient
	server *Server

	mu       sync.Mutex
	reported []string // the outcome of each exchange
}

func (p *peer) outcomes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reported
}

func newPeer(t *testing.T) *peer {
	t.Helper()
	g, err := gateway.New(gateway.Options{Sessions: session.NewMemory(session.MemoryOptions{})})
	if err != nil {
		t.Fatal(err)
	}
	src := &catalog.Source{Server: "s", Modern: true, Revisions: []mcp.Revision{mcp.R20260728}}
	src.Items[catalog.Tool], _ = catalog.Collect("s", catalog.Tool, [][]byte{
		[]byte(`{"name":"echo","inputSchema":{"type":"object"}}`), []byte(`{"name":"explode","inputSchema":{"type":"object"}}`),
	}, catalog.Trust{})
	g.Swap(func(gateway.Snapshot) gateway.Snapshot {
		return gateway.Snapshot{
			Settings: &gateway.Settings{
				Listeners: map[string]*gateway.Listener{"main": {Name: "main", Auth: everybody{}}},
				Endpoints: map[string]*gateway.Endpoint{"mcp": {Name: "mcp"}}, Servers: map[string]*gateway.Server{"s": {Name: "s"}},
			},
			Policy: engine{}, Routes: gateway.Routes{Servers: map[string]bool{"s": true}},
			Catalog: catalog.Build([]catalog.Endpoint{{Name: "mcp", Path: "/mcp", Servers: []catalog.Selection{{Server: "*"}}}}, []*catalog.Source{src}, nil),
		}
	})
	p := &peer{}
	p.server = New(g, func(_ context.Context, x *gateway.Exchange) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.reported = append(p.reported, x.Outcome())
	}, slog.New(slog.DiscardHandler))
	l, s := bufconn.Listen(1<<20), grpc.NewServer()
	p.server.Register(s)
	go s.Serve(l) //nolint:errcheck // ends with Stop
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("passthrough:///peer", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return l.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p.client = extprocv3.NewExternalProcessorClient(conn)
	return p
}

func (p *peer) open(t *testing.T) extprocv3.ExternalProcessor_ProcessClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	s, err := p.client.Process(metadata.AppendToOutgoingContext(ctx, gateway.HeaderListener, "main"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// firstMessage is Envoy's first message, for a call of a tool.
func firstMessage(tool string, end bool, mode filterv3.ProcessingMode_BodySendMode, more ...string) *extprocv3.ProcessingRequest {
	m := &corev3.HeaderMap{}
	for _, h := range append([]string{
		":method: POST", ":path: /mcp", ":authority: localhost", "content-type: application/json", "accept: application/json, text/event-stream",
		"mcp-protocol-version: 2026-07-28", "mcp-method: tools/call", "mcp-name: " + tool,
	}, more...) {
		i := strings.Index(h[1:], ": ") + 1
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: h[:i], RawValue: []byte(h[i+2:])})
	}
	return &extprocv3.ProcessingRequest{
		Request:        &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{Headers: m, EndOfStream: end}},
		ProtocolConfig: &extprocv3.ProtocolConfiguration{RequestBodyMode: mode},
	}
}

func body(tool string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{EndOfStream: true, Body: []byte(
		`{"jsonrpc":"2.0","id":9007199254740993,"method":"tools/call","params":{"name":"` + tool + `","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`)}}}
}

// last receives until the stream ends, and returns how many replies there were, the last of them and the error that is not an end.
func last(s extprocv3.ExternalProcessor_ProcessClient) (n int, r *extprocv3.ProcessingResponse, err error) {
	for {
		next, e := s.Recv()
		if errors.Is(e, io.EOF) {
			return n, r, nil
		}
		if e != nil {
			return n, r, e
		}
		n, r = n+1, next
	}
}

const buffered = filterv3.ProcessingMode_BUFFERED

// TestNeverAGoOn: Envoy takes a stream that ends cleanly as leave to go on, so none ends cleanly before its last reply.
func TestNeverAGoOn(t *testing.T) {
	for _, row := range []struct {
		name string
		send []*extprocv3.ProcessingRequest
		code codes.Code
	}{
		{"closed before anything was said", nil, codes.Aborted},
		{"a body first", []*extprocv3.ProcessingRequest{body("echo")}, codes.Aborted},
		{"an empty message first", []*extprocv3.ProcessingRequest{{}}, codes.Aborted},
		{"trailers first", []*extprocv3.ProcessingRequest{{Request: &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{}}}}, codes.Aborted},
		{"response headers first", []*extprocv3.ProcessingRequest{{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{}}}}, codes.Aborted},
		{"no body mode", []*extprocv3.ProcessingRequest{firstMessage("echo", false, filterv3.ProcessingMode_NONE)}, codes.FailedPrecondition},
		{"a body in pieces", []*extprocv3.ProcessingRequest{firstMessage("echo", false, filterv3.ProcessingMode_STREAMED)}, codes.FailedPrecondition},
		{"as much of a body as fits", []*extprocv3.ProcessingRequest{firstMessage("echo", false, filterv3.ProcessingMode_BUFFERED_PARTIAL)}, codes.FailedPrecondition},
		{"closed before the body", []*extprocv3.ProcessingRequest{firstMessage("echo", false, buffered)}, codes.Aborted},
		{"headers twice", []*extprocv3.ProcessingRequest{firstMessage("echo", false, buffered), firstMessage("echo", false, buffered)}, codes.Aborted},
		{"trailers in the body's place", []*extprocv3.ProcessingRequest{firstMessage("echo", false, buffered), {Request: &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{}}}}, codes.Aborted},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := newPeer(t)
			s := p.open(t)
			for _, m := range row.send {
				if err := s.Send(m); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
			}
			if err := s.CloseSend(); err != nil {
				t.Fatal(err)
			}
			_, r, err := last(s)
			if status.Code(err) != row.code {
				t.Errorf("the stream ended with %v, want %v", err, row.code)
			}
			if c := r.GetRequestHeaders().GetResponse(); r.GetImmediateResponse() == nil && c.GetHeaderMutation() != nil {
				t.Errorf("a reply to the headers changes something: %v", r)
			}
			if r.GetRequestBody() != nil {
				t.Errorf("a verdict without a body: %v", r)
			}
			if p.server.Broken() != 1 || p.server.InFlight() != 0 {
				t.Errorf("%d broken, %d in flight", p.server.Broken(), p.server.InFlight())
			}
		})
	}
}

func TestVerdicts(t *testing.T) {
	t.Run("a call is routed in the reply to its body alone", func(t *testing.T) {
		p := newPeer(t)
		s := p.open(t)
		_ = s.Send(firstMessage("s_echo", false, buffered, "x-tenant-id: acme"))
		r, err := s.Recv()
		if err != nil || r.GetRequestHeaders() == nil || r.GetRequestHeaders().GetResponse() != nil || r.GetDynamicMetadata() != nil {
			t.Fatalf("the reply to the headers is %v (%v)", r, err)
		}
		_ = s.Send(body("s_echo"))
		n, r, err := last(s)
		if n != 1 || err != nil {
			t.Fatalf("%d replies, %v", n, err)
		}
		set := map[string]string{}
		m := r.GetRequestBody().GetResponse().GetHeaderMutation()
		for _, h := range m.GetSetHeaders() {
			set[h.Header.Key] = string(h.Header.RawValue)
		}
		if set["x-mcpgw-backend"] != "s/s" || set["mcp-name"] != "echo" || !strings.Contains(string(r.GetRequestBody().GetResponse().GetBodyMutation().GetBody()), `"name":"echo"`) {
			t.Errorf("the verdict is %v", r)
		}
		if strings.Join(m.GetRemoveHeaders(), " ") != "x-tenant-id" {
			t.Errorf("removed are %v", m.GetRemoveHeaders())
		}
		facts := r.GetDynamicMetadata().GetFields()["mcpgw"].GetStructValue().GetFields()
		if facts["id_json"].GetStringValue() != "9007199254740993" || facts["lane"].GetStringValue() != "direct" || facts["own_reply"] != nil {
			t.Errorf("the facts are %v", facts)
		}
		if got := p.outcomes(); len(got) != 1 || got[0] != "ok" {
			t.Errorf("reported %v", got)
		}
	})
	t.Run("a head without a body is answered at once", func(t *testing.T) {
		p := newPeer(t)
		s := p.open(t)
		_ = s.Send(firstMessage("echo", true, buffered))
		n, r, err := last(s)
		if n != 1 || err != nil || r.GetImmediateResponse().GetStatus().GetCode() != 400 {
			t.Errorf("%d replies, %v, %v", n, r, err)
		}
	})
	t.Run("a panic in the walk is a refusal with the caller's id", func(t *testing.T) {
		p := newPeer(t)
		s := p.open(t)
		_ = s.Send(firstMessage("s_explode", false, buffered))
		_, _ = s.Recv()
		_ = s.Send(body("s_explode"))
		n, r, err := last(s)
		reply := r.GetImmediateResponse()
		if n != 1 || err != nil || reply.GetStatus().GetCode() != 503 || !strings.Contains(string(reply.GetBody()), `"id":9007199254740993,"error":{"code":-32603`) {
			t.Errorf("%d replies, %v, %v", n, r, err)
		}
		if strings.Contains(string(reply.GetBody()), "as asked") {
			t.Errorf("the cause is told: %s", reply.GetBody())
		}
		if got := p.outcomes(); len(got) != 1 || got[0] != "internal" {
			t.Errorf("reported %v", got)
		}
	})
	t.Run("what is no verdict is refused", func(t *testing.T) {
		if r := render(nil, atBody); r.GetImmediateResponse().GetStatus().GetCode() != 503 {
			t.Errorf("got %v", r)
		}
	})
	t.Run("an unknown listener serves nothing", func(t *testing.T) {
		p := newPeer(t)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		s, err := p.client.Process(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send(firstMessage("s_echo", false, buffered))
		n, r, err := last(s)
		if n != 1 || err != nil || r.GetImmediateResponse().GetStatus().GetCode() != 503 {
			t.Errorf("%d replies, %v, %v", n, r, err)
		}
	})
}
