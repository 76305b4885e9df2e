package extproc

import (
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/mcpgw/mcpgw/pkg/gateway"
)

// phase is which of Envoy's two messages a reply answers.
type phase bool

const (
	atHeaders phase = false
	atBody    phase = true
)

// reply answers in the phase; common may be nil, and nothing changes then.
func (p phase) reply(common *extprocv3.CommonResponse, facts *structpb.Struct) *extprocv3.ProcessingResponse {
	if p == atBody {
		return &extprocv3.ProcessingResponse{DynamicMetadata: facts, Response: &extprocv3.ProcessingResponse_RequestBody{
			RequestBody: &extprocv3.BodyResponse{Response: common},
		}}
	}
	return &extprocv3.ProcessingResponse{DynamicMetadata: facts, Response: &extprocv3.ProcessingResponse_RequestHeaders{
		RequestHeaders: &extprocv3.HeadersResponse{Response: common},
	}}
}

// render alone knows how a verdict looks on Envoy's wire. What is no verdict is refused.
func render(v gateway.Verdict, at phase) *extprocv3.ProcessingResponse {
	switch v := v.(type) {
	case *gateway.Forward:
		c := &extprocv3.CommonResponse{HeaderMutation: mutation(v), ClearRouteCache: true}
		if v.Body != nil {
			c.BodyMutation = &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_Body{Body: v.Body}}
			if len(v.Body) == 0 {
				c.BodyMutation.Mutation = &extprocv3.BodyMutation_ClearBody{ClearBody: true}
			}
		}
		return at.reply(c, metadataOf(&v.Facts, false))
	case *gateway.Reply:
		return immediate(v)
	}
	return immediate(gateway.Broken())
}

func mutation(f *gateway.Forward) *extprocv3.HeaderMutation {
	m := &extprocv3.HeaderMutation{RemoveHeaders: f.Remove, SetHeaders: make([]*corev3.HeaderValueOption, 0, len(f.Set)+2)}
	set := func(name, value string) {
		m.SetHeaders = append(m.SetHeaders, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: name, RawValue: []byte(value)},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	set(gateway.HeaderBackend, f.Backend)
	for _, l := range f.Set {
		set(l.Name, l.Value)
	}
	if f.Body != nil { // Envoy refuses a changed body under the old length
		set("content-length", strconv.Itoa(len(f.Body)))
	}
	return m
}

func immediate(r *gateway.Reply) *extprocv3.ProcessingResponse {
	m := &extprocv3.HeaderMutation{}
	for _, l := range r.Header {
		m.SetHeaders = append(m.SetHeaders, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: l.Name, RawValue: []byte(l.Value)},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	return &extprocv3.ProcessingResponse{
		DynamicMetadata: metadataOf(&r.Facts, true),
		Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode(r.Status)}, Headers: m, Body: r.Body, Details: "mcpgw",
		}},
	}
}

// metadataOf writes the facts into the namespace that Envoy's filters, spans and access log read.
func metadataOf(f *gateway.Facts, own bool) *structpb.Struct {
	fields := make(map[string]*structpb.Value, 10)
	f.Each(func(name, value string) { fields[name] = structpb.NewStringValue(value) })
	if own {
		fields["own_reply"] = structpb.NewBoolValue(true)
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{
		"mcpgw": structpb.NewStructValue(&structpb.Struct{Fields: fields}),
	}}
}
