// Package mcp holds what the Model Context Protocol fixes, as tables that a reader can check against the specification:
// revisions, methods, headers, error codes and _meta keys. It decides nothing and keeps no state.
//
// Each revision has a file of its own with its method table. A revision is modern (2026-07-28 and later: stateless, _meta and
// headers on every request) or legacy (2025-11-25 and earlier: initialize and sessions).
package mcp

// Revision is a protocol version as it stands on the wire, such as "2026-07-28".
type Revision string

// The revisions the gateway speaks.
const (
	R20260728 Revision = "2026-07-28"
	R20251125 Revision = "2025-11-25"
	R20250618 Revision = "2025-06-18"
	R20250326 Revision = "2025-03-26"
)

// Revisions lists every revision the gateway serves, newest first.
var Revisions = []Revision{R20260728, R20251125, R20250618, R20250326}

// LatestLegacy is what initialize answers to a client that asks for a revision we do not serve in sessions.
const LatestLegacy = R20251125

// Known reports whether the gateway serves r.
func (r Revision) Known() bool { return r.table() != nil }

// Modern reports whether r is stateless with _meta and headers on every request. Unknown revisions are not.
func (r Revision) Modern() bool { return r == R20260728 }

// Era names the protocol family, "modern" or "legacy", as policy and logs see it.
func (r Revision) Era() string {
	if r.Modern() {
		return "modern"
	}
	return "legacy"
}

// Class says how the gateway treats a method.
type Class uint8

// The classes of methods.
const (
	Absent       Class = iota // not a method of the revision
	Initialize                // opens a session
	Discover                  // server/discover
	Ping                      //
	List                      // answered from the catalog
	Use                       // names one item: ruled on, then sent to its server
	Watch                     // a resource subscription of a session: ruled on as a read
	Listen                    // subscriptions/listen
	SetLevel                  // logging/setLevel
	Notification              // acts on, or travels within, the client's own session
)

// Method is one row of a revision's table: what a client may send.
type Method struct {
	Class Class
	// Kind of the items that a List lists or a Use names; "" where Ref decides (completion/complete).
	Kind Kind
	// Param is the member of params that names the item, mirrored in Mcp-Name where the revision asks for it.
	Param string
	// Key is the member of a List's result that holds the items.
	Key string
	// Action is what policy is asked, as the method that uses the item; "" for protocol methods, which need no rule.
	Action string
	// Mirrored reports whether Mcp-Name mirrors Param.
	Mirrored bool
}

// Kind is the kind of an item.
type Kind string

// The kinds of items. The gateway's catalog has its own type; this one spells the word.
const (
	Tool     Kind = "tool"
	Resource Kind = "resource"
	Template Kind = "template"
	Prompt   Kind = "prompt"
)

func (r Revision) table() map[string]Method {
	switch r {
	case R20260728:
		return methods20260728
	case R20251125:
		return methods20251125
	case R20250618:
		return methods20250618
	case R20250326:
		return methods20250326
	}
	return nil
}

// Method looks a client's method up; Class is Absent where the revision has none of that name.
func (r Revision) Method(name string) Method { return r.table()[name] }

// HTTP headers (2026-07-28, "Transports"; legacy: 2025-11-25, "Transports"), in the lower case that Envoy uses.
const (
	HeaderVersion     = "mcp-protocol-version"
	HeaderMethod      = "mcp-method"
	HeaderName        = "mcp-name"
	HeaderParamPrefix = "mcp-param-"
	HeaderSession     = "mcp-session-id"
	HeaderLastEventID = "last-event-id"
)

// Keys of params._meta and result._meta (2026-07-28, "_meta").
const (
	MetaVersion      = "io.modelcontextprotocol/protocolVersion"
	MetaCapabilities = "io.modelcontextprotocol/clientCapabilities"
	MetaClientInfo   = "io.modelcontextprotocol/clientInfo"
	MetaServerInfo   = "io.modelcontextprotocol/serverInfo"
	MetaLogLevel     = "io.modelcontextprotocol/logLevel"
	MetaSubscription = "io.modelcontextprotocol/subscriptionId"
	MetaProgress     = "progressToken"
	MetaTraceparent  = "traceparent"
)

// JSON-RPC error codes that servers send (JSON-RPC 2.0; 2026-07-28, "Error codes").
const (
	CodeParse            = -32700
	CodeInvalidRequest   = -32600
	CodeMethodNotFound   = -32601
	CodeInvalidParams    = -32602
	CodeInternal         = -32603
	CodeNoSession        = -32001
	CodeResourceNotFound = -32002 // legacy servers only
	CodeHeaderMismatch   = -32020
	CodeCapability       = -32021
	CodeVersion          = -32022
)

// Methods by name, where code must speak of one.
const (
	MethodInitialize       = "initialize"
	MethodDiscover         = "server/discover"
	MethodPing             = "ping"
	MethodToolsList        = "tools/list"
	MethodToolsCall        = "tools/call"
	MethodResourcesList    = "resources/list"
	MethodTemplatesList    = "resources/templates/list"
	MethodResourcesRead    = "resources/read"
	MethodPromptsList      = "prompts/list"
	MethodPromptsGet       = "prompts/get"
	MethodComplete         = "completion/complete"
	MethodListen           = "subscriptions/listen"
	MethodSetLevel         = "logging/setLevel"
	MethodSubscribe        = "resources/subscribe"
	MethodUnsubscribe      = "resources/unsubscribe"
	MethodElicit           = "elicitation/create"
	NotifyInitialized      = "notifications/initialized"
	NotifyCancelled        = "notifications/cancelled"
	NotifyProgress         = "notifications/progress"
	NotifyMessage          = "notifications/message"
	NotifyRootsChanged     = "notifications/roots/list_changed"
	NotifyToolsChanged     = "notifications/tools/list_changed"
	NotifyResourcesChanged = "notifications/resources/list_changed"
	NotifyPromptsChanged   = "notifications/prompts/list_changed"
	NotifyResourceUpdated  = "notifications/resources/updated"
	NotifyAcknowledged     = "notifications/subscriptions/acknowledged"
)
