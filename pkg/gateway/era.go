package gateway

import (
	"encoding/json"
	"strings"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/session"
)

// era finds out which revision a message speaks. The body's claim (params._meta) counts; the header must agree with it. Without a
// claim a message is legacy, and a header that says modern is then a fault.
func (x *Exchange) era(m *jsonrpc.Message) *fault.Error {
	header := x.header.Values(mcp.HeaderVersion)
	if len(header) > 1 {
		return fault.New(fault.HeaderMismatch, "%s stands twice", mcp.HeaderVersion)
	}
	for _, n := range x.header.Names() {
		if strings.HasPrefix(n, "mcp-") && len(x.header.Values(n)) > 1 {
			return fault.New(fault.HeaderMismatch, "%s stands twice", n)
		}
	}
	said := ""
	if len(header) == 1 {
		said = strings.Trim(header[0], " \t")
	}
	claim, claimed := m.Meta.Get(mcp.MetaVersion), false
	if claim.Exists() {
		s, ok := claim.Str()
		if !ok {
			return fault.New(fault.BadMeta, "%s must be a string", mcp.MetaVersion)
		}
		claimed = true
		if said != s {
			return fault.New(fault.HeaderMismatch, "%s and params._meta disagree about the protocol version", mcp.HeaderVersion)
		}
		if x.Revision = mcp.Revision(s); !x.Revision.Known() || !x.Revision.Modern() {
			x.Revision = ""
			return unsupported(s)
		}
	}
	x.legacy = !claimed
	switch {
	case claimed:
	case m.Method == mcp.MethodInitialize && mcp.Revision(said).Modern():
		return fault.New(fault.HeaderMismatch, "initialize does not belong to %s", said)
	case mcp.Revision(said).Modern() && m.Kind == jsonrpc.Notification:
		x.legacy, x.Revision = false, mcp.Revision(said) // the header decides for what carries no _meta
	case mcp.Revision(said).Modern() && m.Kind == jsonrpc.Response:
		x.legacy = false
		return fault.New(fault.Invalid, "a client sends no responses in %s", said)
	case mcp.Revision(said).Modern():
		x.legacy = false
		return fault.New(fault.BadMeta, "params._meta needs %s", mcp.MetaVersion)
	case said == "":
		x.Revision = mcp.R20250326 // what the specification assumes; a session knows better
	case !mcp.Revision(said).Known():
		return unsupported(said)
	default:
		x.Revision = mcp.Revision(said)
	}
	if m.Kind == jsonrpc.Response {
		return nil
	}
	x.row = x.Revision.Method(m.Method)
	if x.row.Class != mcp.Absent {
		x.Method = m.Method
	}
	if n := strings.HasPrefix(m.Method, "notifications/"); n != (m.Kind == jsonrpc.Notification) {
		if n {
			return fault.New(fault.Invalid, "a notification has no id")
		}
		return fault.New(fault.Invalid, "%q needs an id", clip(m.Method, 64))
	}
	if tp, ok := m.Meta.Get(mcp.MetaTraceparent).Str(); ok && len(tp) <= 64 && x.Trace == "" {
		x.Trace = tp
	}
	return nil
}

// unsupported is the fault for a version that we do not serve without a session; it names those that we do.
func unsupported(requested string) *fault.Error {
	data, _ := json.Marshal(struct { // strings alone: it cannot fail
		Supported []mcp.Revision `json:"supported"`
		Requested string         `json:"requested"`
	}{mcp.Revisions, clip(requested, 64)})
	return fault.New(fault.Version, "this protocol version is not supported").With(data)
}

// mirrors checks that a header says what the body says (2026-07-28, "Transports"): exactly one line, equal after decoding.
func (x *Exchange) mirrors(name, body string) *fault.Error {
	lines := x.header.Values(name)
	if len(lines) != 1 {
		return fault.New(fault.HeaderMismatch, "%s must stand once and repeat the body", name)
	}
	said := strings.Trim(lines[0], " \t")
	if name == mcp.HeaderName {
		var err error
		if said, err = mcp.DecodeHeader(said); err != nil {
			return fault.New(fault.HeaderMismatch, "%s: %v", name, err)
		}
	}
	if said != body {
		return fault.New(fault.HeaderMismatch, "%s does not say what the body says", name)
	}
	return nil
}

// findSession finds the legacy session that a request names. Unknown, expired, deleted and foreign are the same to the caller.
func (x *Exchange) findSession() *fault.Error {
	ids := x.header.Values(mcp.HeaderSession)
	if len(ids) != 1 || ids[0] == "" {
		return fault.New(fault.NeedSession, "send initialize first, then its %s with every request", mcp.HeaderSession)
	}
	s, err := x.g.opts.Sessions.Get(x.ctx, ids[0], x.owner())
	if err != nil {
		return fault.New(fault.Internal, "sessions cannot be read now").Wrap(err)
	}
	if s == nil {
		return fault.New(fault.NoSession, "there is no such session; send initialize again")
	}
	x.Session, x.Record.Session, x.Revision = s, true, s.Revision
	return nil
}

func (x *Exchange) owner() session.Owner {
	return session.Owner{Principal: x.Principal.Key(), Endpoint: x.View.Path}
}
