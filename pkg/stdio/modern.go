package stdio

import (
	"net/http"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// modern serves one message to a modern child (2026-07-28, "Streamable HTTP"). Every request stands for itself, so one child can
// serve everybody.
func (s *Server) modern(w http.ResponseWriter, r *http.Request, f *face, m *jsonrpc.Message, free func()) {
	switch m.Kind {
	case jsonrpc.Notification:
		w.WriteHeader(http.StatusAccepted) // the revision has none over HTTP
		return
	case jsonrpc.Response:
		refuse(w, m.ID, fault.New(fault.Invalid, "a client sends no responses in this revision"), false)
		return
	}
	if fail := checkModern(r.Header, f, m); fail != nil {
		refuse(w, m.ID, fail, false)
		return
	}
	c := newCall(m, nil)
	if fail := f.link.send(c, m, free); fail != nil {
		refuse(w, m.ID, fail, false)
		return
	}
	s.exchange(w, r, f.link, c, false, func() bool {
		f.link.abandon(c, "the client left", unserved(s.o.Name, reasonCancelled, r.Context().Err()))
		return false
	})
}

// checkModern refuses what must not reach a modern child: a legacy message, which would give state to a connection that all share,
// and a message that its own headers deny. Mcp-Param headers are not checked: that needs the tool's schema, which the gateway has.
func checkModern(h http.Header, f *face, m *jsonrpc.Message) *fault.Error {
	claim, ok := m.Meta.Get(mcp.MetaVersion).Str()
	if !ok {
		if m.Method == mcp.MethodInitialize {
			asked := m.Params.Get("protocolVersion").Raw
			if len(asked) == 0 {
				asked = []byte("null")
			}
			return unsupported(f, asked)
		}
		return fault.New(fault.BadMeta, "params._meta must have %s", mcp.MetaVersion)
	}
	if m.Method == mcp.MethodInitialize {
		return fault.New(fault.NoMethod, "initialize is no method of %s", mcp.R20260728)
	}
	if v, ok := single(h, mcp.HeaderVersion); !ok || v != claim {
		return fault.New(fault.HeaderMismatch, "%s and params._meta disagree", mcp.HeaderVersion)
	}
	if v, ok := single(h, mcp.HeaderMethod); !ok || v != m.Method {
		return fault.New(fault.HeaderMismatch, "%s and method disagree", mcp.HeaderMethod)
	}
	row := mcp.R20260728.Method(m.Method)
	if !row.Mirrored {
		return nil
	}
	name, ok := m.Params.Get(row.Param).Str()
	v, once := single(h, mcp.HeaderName)
	decoded, err := mcp.DecodeHeader(v)
	if !ok || !once || err != nil || decoded != name {
		return fault.New(fault.HeaderMismatch, "%s and params.%s disagree", mcp.HeaderName, row.Param)
	}
	return nil
}

// unsupported is the refusal of a version, which names those that the child takes; requested is JSON text.
func unsupported(f *face, requested []byte) *fault.Error {
	data := append(append(append(append([]byte(`{"supported":`), f.supported...), `,"requested":`...), requested...), '}')
	return fault.New(fault.Version, "unsupported protocol version").With(data)
}
