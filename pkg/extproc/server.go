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

// Report is told of each exchange once, when its verdict is decided. ctx carries Envoy's trace in its gRPC metadata. It is called
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
	defer func() {
		if x != nil {
			s.report(ctx, x)
		}
	}()
	v := s.guard(ctx, &x, func() (v gateway.Verdict) {
		x, v = s.gateway.Head(ctx, head(msg, listener(ctx)))
		return v
	})
	switch {
	case v != nil:
		return stream.Send(render(v, atHeaders))
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
	return stream.Send(render(s.guard(ctx, &x, func() gateway.Verdict { return x.Body(body.Body) }), atBody))
}

// guard runs one step of the walk; a panic stops here and becomes a refusal, with the caller's id where it was read.
func (s *Server) guard(ctx context.Context, x **gateway.Exchange, step func() gateway.Verdict) (v gateway.Verdict) {
	defer func() {
		if p := recover(); p != nil {
			s.log.ErrorContext(ctx, "the walk panicked", "panic", p, "stack", string(debug.Stack()))
			if *x == nil {
				v = gateway.Broken()
			} else {
				v = (*x).Panicked()
			}
		}
	}()
	return step()
}

// listener is the name under which Envoy's configuration sends the exchanges of a listener.
func listener(ctx context.Context) string {
	if v := metadata.ValueFromIncomingContext(ctx, gateway.HeaderListener); len(v) == 1 {
		return v[0]
	}
	return ""
}
