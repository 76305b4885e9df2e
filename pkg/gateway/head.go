package gateway

import (
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/mcpgw/mcpgw/pkg/fault"
)

// Head is the head of one request, as a rim read it. It is read during the call to [Gateway.Head] alone.
type Head struct {
	Listener  string // which of our listeners it came in by
	Method    string
	Path      string // as sent, query included
	Authority string // Host
	Address   string // the client's IP address
	Header    Header
	NoBody    bool // nothing follows the head
}

// Header reads a request's headers by lower-case name.
type Header interface {
	Get(name string) string      // the first line, or ""
	Values(name string) []string // every line
	Names() []string             // each name once, pseudo headers left out
}

// methods is what an endpoint serves.
const methods = "POST, GET, DELETE"

// checkHost refuses a Host or Origin that is not ours: another site's page in a browser must not reach the gateway (MCP
// "Transports", DNS rebinding).
func (l *Listener) checkHost(h *Head) *fault.Error {
	if len(l.Hosts) > 0 && !slices.Contains(l.Hosts, hostname(h.Authority)) {
		return fault.New(fault.Forbidden, "this Host is not served here")
	}
	origins := h.Header.Values("origin")
	switch {
	case len(origins) == 0:
		return nil
	case len(origins) > 1 || !l.allows(origins[0]):
		return fault.New(fault.Forbidden, "this Origin is not allowed")
	}
	return nil
}

func (l *Listener) allows(origin string) bool {
	for _, o := range l.Origins {
		if o == origin {
			return true
		}
		if base, ok := strings.CutSuffix(o, ":*"); ok {
			if rest, ok := strings.CutPrefix(origin, base); ok && (rest == "" || rest[0] == ':' && digits(rest[1:])) {
				return true
			}
		}
	}
	return false
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// hostname is the authority without its port, in lower case.
func hostname(authority string) string {
	if h, _, err := net.SplitHostPort(authority); err == nil {
		authority = h
	}
	return strings.ToLower(strings.Trim(authority, "[]"))
}

// preflight answers a browser that asks before it sends (Fetch standard, "CORS-preflight request"). It carries no credential and gets
// none; the Origin was found to be an allowed one.
func (x *Exchange) preflight(h *Head) *Reply {
	return x.reply(http.StatusNoContent, nil,
		HeaderLine{"access-control-allow-methods", methods},
		HeaderLine{"access-control-allow-headers", clip(h.Header.Get("access-control-request-headers"), 1024)},
		HeaderLine{"access-control-max-age", "600"})
}

// checkPost refuses a POST whose body we could not read as one JSON message, or whose client could not read our answer.
func checkPost(h *Head) *fault.Error {
	if h.NoBody {
		return fault.New(fault.Parse, "the request has no body; send one JSON-RPC message")
	}
	if enc := h.Header.Values("content-encoding"); len(enc) > 1 || len(enc) == 1 && !strings.EqualFold(enc[0], "identity") {
		return fault.New(fault.MediaType, "send the body without content-encoding")
	}
	types := h.Header.Values("content-type")
	if len(types) != 1 || !isJSON(types[0]) {
		return fault.New(fault.MediaType, "content-type must be application/json")
	}
	accept := h.Header.Values("accept")
	if !accepts(accept, "application/json") || !accepts(accept, "text/event-stream") {
		return fault.New(fault.NotAcceptable, "accept must name application/json and text/event-stream")
	}
	return nil
}

func isJSON(ct string) bool {
	if ct == "application/json" {
		return true
	}
	t, params, err := mime.ParseMediaType(ct)
	if err != nil || t != "application/json" {
		return false
	}
	cs, ok := params["charset"]
	return !ok || strings.EqualFold(cs, "utf-8")
}

// accepts reports whether the Accept lines allow a type. A quality of 0 refuses it; an Accept that is absent allows nothing, since the
// specification wants both types named.
func accepts(lines []string, want string) bool {
	major, _, _ := strings.Cut(want, "/")
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			t, params, _ := strings.Cut(part, ";")
			t = strings.ToLower(strings.TrimSpace(t))
			if t != want && t != "*/*" && t != major+"/*" {
				continue
			}
			if q := strings.ReplaceAll(strings.ToLower(params), " ", ""); q == "q=0" || strings.HasPrefix(q, "q=0.0") && strings.Trim(q[len("q=0."):], "0") == "" {
				continue
			}
			return true
		}
	}
	return false
}

// isHTTPMethod says which methods an endpoint serves.
func isHTTPMethod(m string) bool {
	return m == http.MethodPost || m == http.MethodGet || m == http.MethodDelete
}

// travels reports whether a client's header goes on to a server: what HTTP and MCP need, trace context, and what the server's
// configuration names. Anything else an internal server could read as the gateway's word.
func travels(name string, s *Server) bool {
	switch name {
	case "accept", "user-agent", "traceparent", "tracestate", "content-type", "content-length", "content-language", "transfer-encoding", "x-request-id", "expect", "host":
		return true
	case "mcp-session-id", "last-event-id":
		return false
	case "x-forwarded-proto":
		return true // Envoy's own, and it finds no route without it; the virtual host removes it afterwards
	}
	if strings.HasPrefix(name, "mcp-") || strings.HasPrefix(name, "x-envoy-") { // x-envoy- is Envoy's own by now, and not ours to remove
		return true
	}
	return s != nil && s.ForwardHeaders[name]
}

// removals lists the client's headers that do not travel.
func removals(h Header, s *Server) []string {
	var out []string
	for _, n := range h.Names() {
		if !travels(n, s) {
			out = append(out, n)
		}
	}
	return out
}
