package extauthz

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// ExtensionServer is the context extension by which a filter names the server behind its route.
const ExtensionServer = "mcpgw.server"

// partial is the header in which Envoy says whether it sent the whole body. It is there only for a filter that sends bodies.
const partial = "x-envoy-auth-partial-body"

// Options say whose requests are judged. All must be set.
type Options struct {
	Gateway  *gateway.Gateway
	Listener string // whose credentials, hosts and origins count
	Server   string // whose items are called, where the filter names no other
	Report   func(ctx context.Context, x *gateway.Exchange)
	Log      *slog.Logger
}

// Server serves Envoy's external authorization calls.
type Server struct {
	authv3.UnimplementedAuthorizationServer
	o Options
}

// New makes a server.
func New(o Options) *Server { return &Server{o: o} }

// Register adds the service to a gRPC server, whose receive limit must exceed the filter's max_request_bytes.
func (s *Server) Register(r grpc.ServiceRegistrar) { authv3.RegisterAuthorizationServer(r, s) }

// Check judges one request. It never returns an error, which some filters are told to let pass, and never an empty response.
func (s *Server) Check(ctx context.Context, req *authv3.CheckRequest) (resp *authv3.CheckResponse, _ error) {
	var x *gateway.Exchange
	reported := false
	defer func() {
		if p := recover(); p != nil {
			s.o.Log.ErrorContext(ctx, "the walk panicked", "panic", p, "stack", string(debug.Stack()))
			refusal := gateway.Broken()
			if x != nil {
				refusal = x.Panicked()
			}
			resp = deny(refusal, nil)
			if x != nil && !reported {
				defer func() { _ = recover() }() // it was the report that panicked, or cannot be made of what is left
				s.o.Report(ctx, x)
			}
		}
	}()
	a := req.GetAttributes()
	r := a.GetRequest().GetHttp()
	if r == nil {
		return deny(gateway.Broken(), nil), nil
	}
	server := s.o.Server
	if name := a.GetContextExtensions()[ExtensionServer]; name != "" {
		server = name
	}
	h := headersOf(r)
	head := &gateway.Head{
		Listener: s.o.Listener, Address: a.GetSource().GetAddress().GetSocketAddress().GetAddress(), Header: h,
		Method: r.Method, Path: r.Path, Authority: r.Host, NoBody: len(r.RawBody) == 0,
	}
	f := whole(r, h)
	if f != nil && f.Kind == fault.Internal {
		s.o.Log.WarnContext(ctx, "the ext_authz filter is not set up so that its requests can be judged", "error", f.Cause, "server", server)
	}
	var v gateway.Verdict
	if f != nil {
		x, v = s.o.Gateway.Unjudged(ctx, head, f)
	} else {
		x, v = s.o.Gateway.Authorize(ctx, head, r.RawBody, server)
	}
	reported = true
	s.o.Report(ctx, x)
	switch v := v.(type) {
	case *gateway.Pass:
		return allow(v, x), nil
	case *gateway.Reply:
		if v.Done != nil {
			v.Done()
		}
		return deny(v, x), nil
	}
	return deny(gateway.Broken(), x), nil
}

// whole makes sure that what came is the request that the server is going to get.
func whole(r *authv3.AttributeContext_HttpRequest, h headers) *fault.Error {
	said := h.Values(partial)
	setup := func(format string, args ...any) *fault.Error {
		return fault.New(fault.Internal, "the gateway could not read this request").Wrap(fmt.Errorf(format, args...))
	}
	length, known := int64(0), false
	if v := h.Values("content-length"); len(v) == 1 {
		n, err := strconv.ParseInt(v[0], 10, 64)
		length, known = n, err == nil
	}
	switch {
	case len(r.RawBody) == 0 && r.Body != "":
		return setup("the body came as text; set with_request_body.pack_as_bytes")
	case r.Method == http.MethodPost && len(said) == 0:
		return setup("no body is sent; set with_request_body")
	case len(said) > 0 && !slices.Equal(said, []string{"false"}):
		return setup("the body is cut; unset with_request_body.allow_partial_message")
	case len(said) > 0 && r.Size >= 0 && r.Size != int64(len(r.RawBody)), known && length != int64(len(r.RawBody)) && r.Method == http.MethodPost:
		return setup("%d of %d bytes of the body came", len(r.RawBody), r.Size)
	}
	return nil
}

// allow lets a request pass.
func allow(p *gateway.Pass, x *gateway.Exchange) *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status:          &rpcstatus.Status{Code: int32(codes.OK)},
		DynamicMetadata: metadata(&p.Facts, x, false),
		HttpResponse:    &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{HeadersToRemove: p.Remove}},
	}
}

// deny answers in the server's place. x may be nil.
func deny(r *gateway.Reply, x *gateway.Exchange) *authv3.CheckResponse {
	d := &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode(r.Status)}, Body: string(r.Body)}
	for _, l := range r.Header {
		d.Headers = append(d.Headers, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: l.Name, Value: l.Value},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	return &authv3.CheckResponse{
		Status:          &rpcstatus.Status{Code: int32(codes.PermissionDenied)},
		DynamicMetadata: metadata(&r.Facts, x, true),
		HttpResponse:    &authv3.CheckResponse_DeniedResponse{DeniedResponse: d},
	}
}

// metadata is the ruling as filters, spans and access logs of that Envoy can read it, in the filter's own namespace.
func metadata(f *gateway.Facts, x *gateway.Exchange, own bool) *structpb.Struct {
	fields := map[string]*structpb.Value{}
	put := func(name, value string) {
		if value != "" {
			fields[name] = structpb.NewStringValue(strings.ToValidUTF8(value, "�"))
		}
	}
	f.Each(put)
	if own {
		fields["own_reply"] = structpb.NewBoolValue(true)
	}
	if x != nil {
		put("snapshot", x.Record.Snapshot)
		put("server", x.Server)
		put("item", x.Item)
		put("refusal", refusal(x))
		if r := x.Ruling; r != nil {
			effect := r.Effect
			if r.Err != nil {
				effect = policy.Deny
			}
			put("decision", string(effect))
			put("policy_revision", r.Revision)
		}
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{"mcpgw": structpb.NewStructValue(&structpb.Struct{Fields: fields})}}
}

func refusal(x *gateway.Exchange) string {
	if x.Fault == nil {
		return ""
	}
	return x.Fault.Kind.String()
}
