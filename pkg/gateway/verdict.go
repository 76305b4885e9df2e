package gateway

// Verdict is what a step of the walk decided: a *Reply or a *Forward. It keeps no bytes of the request, so a rim may reuse its
// buffers once the step has returned.
type Verdict interface{ verdict() }

// Reply answers the client at once; no server sees the request.
type Reply struct {
	Status int
	Header []HeaderLine // content-type included; content-length is the rim's
	Body   []byte
	Facts  Facts

	// Done, where set, is called once the reply was sent or will not be: Body may then be used for another.
	Done func()
}

// Forward sends the request on, to a server or to the broker.
type Forward struct {
	Backend string       // the route: s/<server> or broker
	Set     []HeaderLine // headers to set, each replacing every line of that name
	Remove  []string     // headers to remove
	Body    []byte       // the body to send instead; nil: as it came. Empty but not nil: an empty body
	Facts   Facts
}

func (*Reply) verdict()   {}
func (*Forward) verdict() {}

// HeaderLine is one header, name in lower case.
type HeaderLine struct{ Name, Value string }

// Facts is what later filters, spans and the access log may know of the decision. Empty members are left out by the rim, except
// IDJSON of a Forward, which is always written.
type Facts struct {
	IDJSON     string // the request's id as JSON text; "null" for a notification
	Lane       string // direct or broker
	Era        string // of the client
	Server     string // the configured name
	DecisionID string
	Method     string // the MCP method, "" where it is unknown
	Tool       string // the item's public name
	Origin     string // of a browser's page that may read the answer
}

// Each calls put with every fact that is known and its name, as metadata, spans and logs read them.
func (f *Facts) Each(put func(name, value string)) {
	say := func(name, value string) {
		if value != "" {
			put(name, value)
		}
	}
	say("id_json", f.IDJSON)
	say("lane", f.Lane)
	say("era", f.Era)
	say("server", f.Server)
	say("decision_id", f.DecisionID)
	say("method", f.Method)
	say("tool", f.Tool)
	say("origin", f.Origin)
	name := f.Method
	if f.Tool != "" {
		name += " " + f.Tool
	}
	say("span_name", name)
	if f.Server != "" {
		say("upstream_span_name", name+" @"+f.Server)
	}
}

// Names of headers that the gateway alone sets; Envoy removes a client's before anything reads them.
const (
	HeaderBackend  = "x-mcpgw-backend"
	HeaderTicket   = "x-mcpgw-exchange"
	HeaderDecision = "x-mcpgw-decision-id"
	HeaderToken    = "x-mcpgw-egress-token"
	HeaderListener = "x-mcpgw-listener"
	HeaderAddress  = "x-mcpgw-address"
	HeaderLocal    = "x-mcpgw-local"
	// HeaderClientTrace holds a client's traceparent on a listener that starts traces of its own.
	HeaderClientTrace = "x-mcpgw-client-traceparent"
)

// BackendBroker is the route to the broker, BackendPrefix that of a server before its name. The prefix keeps server names apart
// from our own.
const (
	BackendBroker = "broker"
	BackendPrefix = "s/"
)
