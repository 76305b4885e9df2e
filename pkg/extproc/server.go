package extproc

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mcpgw/mcpgw/pkg/gateway"
)

// Report is told of each exchange once, when its verdict is decided and before it is sent. ctx carries Envoy's trace in its gRPC metadata. It is called
// concurrently and must not block.
type Report func(ctx context.Context, x *gateway.Exchange)

// Server serves Envoy's external processor calls from a gateway.
type Server struct {
	extprocv3.UnimplementedExternalProcessorServer
	gateway  *gateway.Gateway
	report   Report
	log      *slog.Logger
	inFlight atomic.Int64
	broken   atomic.Uint64
}

// New makes a server. All three are needed.
func New(g *gateway.Gateway, r Report, log *slog.Logger) *Server {
	return &Server{gateway: g, report: r, log: log}
}

// Register adds the service to a gRPC server, whose receive limit must exceed the body limit.
func (s *Server) Register(r grpc.ServiceRegistrar) { extprocv3.RegisterExternalProcessorServer(r, s) }

// InFlight is the number of exchanges in the walk now.
func (s *Server) InFlight() int64 { return s.inFlight.Load() }

// Broken counts streams that ended before their last reply.
func (s *Server) Broken() uint64 { return s.broken.Load() }

// Process serves one exchange.
func (s *Server) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	err := s.process(stream)
	if err != nil {
		s.broken.Add(1)
	}
	return err
}

func (s *Server) process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	msg, err := stream.Recv()
	h, mode := msg.GetRequestHeaders(), msg.GetProtocolConfig().GetRequestBodyMode()
	if err != nil || h == nil { // io.EOF too: Envoy left before our reply
		return status.Errorf(codes.Aborted, "want request headers, got %T: %v", msg.GetRequest(), err)
	}
	ctx := stream.Context()
	var x *gateway.Exchange
	last, done := s.guard(ctx, &x, atHeaders, func() (v gateway.Verdict) {
		x, v = s.gateway.Head(ctx, head(msg, word(ctx, gateway.HeaderListener), word(ctx, gateway.HeaderAddress)))
		return v
	})
	switch {
	case last != nil:
		defer done()
		return stream.Send(last)
	case mode != filterv3.ProcessingMode_BUFFERED || h.EndOfStream:
		return status.Errorf(codes.FailedPrecondition, "request body mode %v would let a body pass unread", mode)
	}
	// Nothing is set here: a backend named in the reply to the headers would send the body on unread.
	if err = stream.Send(atHeaders.reply(nil, nil)); err == nil {
		msg, err = stream.Recv()
	}
	body := msg.GetRequestBody() // BUFFERED: the whole body, even where end_of_stream is false because trailers follow
	if err != nil || body == nil {
		return status.Errorf(codes.Aborted, "want the request body, got %T: %v", msg.GetRequest(), err)
	}
	last, done = s.guard(ctx, &x, atBody, func() gateway.Verdict {
		if v := x.Body(body.Body); v != nil {
			return v
		}
		return x.Panicked() // no verdict is none to go on with
	})
	defer done() // grpc has encoded the message when Send returns
	return stream.Send(last)
}

// guard runs one step of the walk, reports a verdict and renders it: all before it is sent, for then the broker may have the exchange. A
// panic in any of it becomes a refusal, with the caller's id where it was read. Without a verdict it returns no reply.
func (s *Server) guard(ctx context.Context, x **gateway.Exchange, at phase, step func() gateway.Verdict) (reply *extprocv3.ProcessingResponse, done func()) {
	done = func() {}
	reported := false
	defer func() {
		if p := recover(); p != nil {
			s.log.ErrorContext(ctx, "the walk panicked", "panic", p, "stack", string(debug.Stack()))
			refusal := gateway.Broken()
			if *x != nil {
				refusal = (*x).Panicked()
			}
			reply = render(refusal, at)
			if *x != nil && !reported {
				defer func() { _ = recover() }() // it was the report that panicked, or cannot be made of what is left
				s.report(ctx, *x)
			}
		}
	}()
	v := step()
	if v == nil {
		return nil, done
	}
	if r, ok := v.(*gateway.Reply); ok && r.Done != nil {
		done = r.Done
	}
	reported = true
	s.report(ctx, *x)
	return render(v, at), done
}

// word is what Envoy's configuration says of an exchange in the metadata of its stream: the listener's name, the client's address.
func word(ctx context.Context, name string) string {
	if v := metadata.ValueFromIncomingContext(ctx, name); len(v) == 1 {
		return v[0]
	}
	return ""
}
