package extauthz

import (
	"maps"
	"slices"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// headers are a request's header lines by lower-case name.
type headers map[string][]string

// headersOf reads the lines. A filter with encode_raw_headers sends each one; without it Envoy has joined lines of one name by a comma,
// and they then stand as one.
func headersOf(r *authv3.AttributeContext_HttpRequest) headers {
	h := make(headers, len(r.Headers))
	if lines := r.GetHeaderMap().GetHeaders(); len(lines) > 0 {
		for _, l := range lines {
			value := l.Value
			if len(l.RawValue) > 0 {
				value = string(l.RawValue)
			}
			h[l.Key] = append(h[l.Key], value)
		}
		return h
	}
	for name, value := range r.Headers {
		h[name] = []string{value}
	}
	return h
}

// Get returns the first line of that name.
func (h headers) Get(name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Values returns every line of that name.
func (h headers) Values(name string) []string { return h[name] }

// Names returns each name once, pseudo headers left out.
func (h headers) Names() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(h)), func(n string) bool { return n == "" || n[0] == ':' })
}
