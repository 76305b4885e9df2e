package extproc

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/mcpgw/mcpgw/pkg/gateway"
)

// head is a view of Envoy's first message in the walk's words.
func head(msg *extprocv3.ProcessingRequest, listener, address string) *gateway.Head {
	h := msg.GetRequestHeaders()
	lines := headers(h.GetHeaders().GetHeaders())
	return &gateway.Head{
		Listener: listener, Address: address, Header: lines, NoBody: h.EndOfStream,
		Method: lines.Get(":method"), Path: lines.Get(":path"), Authority: lines.Get(":authority"),
	}
}

// headers is a view over Envoy's header list, whose names are lower case. It copies nothing.
type headers []*corev3.HeaderValue

// value is a line's value: Envoy sends it as bytes, since it need not be UTF-8.
func value(h *corev3.HeaderValue) string {
	if len(h.RawValue) > 0 {
		return string(h.RawValue)
	}
	return h.Value
}

// Get returns the first line of that name.
func (h headers) Get(name string) string {
	for _, l := range h {
		if l.Key == name {
			return value(l)
		}
	}
	return ""
}

// Values returns every line of that name.
func (h headers) Values(name string) []string {
	var out []string
	for _, l := range h {
		if l.Key == name {
			out = append(out, value(l))
		}
	}
	return out
}

// Names returns each name once, pseudo headers left out.
func (h headers) Names() []string {
	out := make([]string, 0, len(h))
	for _, l := range h {
		if l.Key != "" && l.Key[0] != ':' && !slices.Contains(out, l.Key) {
			out = append(out, l.Key)
		}
	}
	return out
}
