package gateway

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/session"
)

// levels are the log levels of logging/setLevel (2025-11-25, "Logging").
var levels = []string{"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}

// implementation is how the gateway names itself.
func (x *Exchange) implementation() []byte {
	s := x.Snapshot.Settings
	b := append([]byte(`{"name":`), jsonrpc.AppendString(nil, s.Name)...)
	b = append(b, `,"version":`...)
	return append(jsonrpc.AppendString(b, s.Build), '}')
}

// capabilities is what an endpoint offers: what its servers can do, and that lists may change, which the gateway itself tells.
func (x *Exchange) capabilities() []byte {
	c := map[string]any{
		"tools":     map[string]bool{"listChanged": true},
		"prompts":   map[string]bool{"listChanged": true},
		"resources": map[string]bool{"listChanged": true},
	}
	for _, s := range x.View.Servers() {
		var theirs map[string]json.RawMessage
		if json.Unmarshal(s.Capabilities, &theirs) != nil {
			continue // none known yet
		}
		if theirs["completions"] != nil {
			c["completions"] = struct{}{}
		}
		if theirs["logging"] != nil {
			c["logging"] = struct{}{}
		}
		var r struct{ Subscribe bool }
		if x.legacy && json.Unmarshal(theirs["resources"], &r) == nil && r.Subscribe {
			c["resources"] = map[string]bool{"listChanged": true, "subscribe": true}
		}
	}
	b, _ := json.Marshal(c) // maps of booleans: it cannot fail
	return b
}

// instructions are the server's own where an endpoint has just one.
func (x *Exchange) instructions() []byte {
	if s := x.View.Servers(); len(s) == 1 && s[0].Instructions != "" {
		return append([]byte(`,"instructions":`), jsonrpc.AppendString(nil, s[0].Instructions)...)
	}
	return nil
}

// discover answers server/discover from memory.
func (x *Exchange) discover() []byte {
	versions, _ := json.Marshal(mcp.Revisions) // strings: it cannot fail
	b := append([]byte(`{"supportedVersions":`), versions...)
	b = append(append(b, `,"capabilities":`...), x.capabilities()...)
	b = append(b, x.instructions()...)
	b = append(b, `,"resultType":"complete","cacheScope":"private","ttlMs":`...)
	b = strconv.AppendInt(b, x.View.TTL().Milliseconds(), 10)
	b = append(b, `,"_meta":{"`+mcp.MetaServerInfo+`":`...)
	return append(append(b, x.implementation()...), "}}"...)
}

// initialize opens a legacy session.
func (x *Exchange) initialize(m *jsonrpc.Message) (Verdict, *fault.Error) {
	asked, ok := m.Params.Get("protocolVersion").Str()
	if !ok {
		return nil, fault.New(fault.BadArguments, "params.protocolVersion must be a string")
	}
	capabilities, info := m.Params.Get("capabilities"), m.Params.Get("clientInfo")
	if capabilities.Kind() != '{' {
		return nil, fault.New(fault.BadArguments, "params.capabilities must be an object")
	}
	if info.Exists() && info.Kind() != '{' {
		return nil, fault.New(fault.BadArguments, "params.clientInfo must be an object")
	}
	x.Revision = mcp.Revision(asked)
	if !x.Revision.Known() || x.Revision.Modern() {
		x.Revision = mcp.LatestLegacy // the client disconnects if it cannot
	}
	s := session.New(x.owner(), x.Revision, x.Start, x.g.opts.SessionLifetime)
	s.ClientCapabilities, s.ClientInfo = slices.Clone(capabilities.Raw), slices.Clone(info.Raw)
	if err := x.g.opts.Sessions.Create(x.ctx, s); err != nil {
		return nil, fault.New(fault.Overload, "no session can be opened now").Wrap(err)
	}
	x.Session, x.Record.Session = s, true
	b := append([]byte(`{"protocolVersion":`), jsonrpc.AppendString(nil, string(x.Revision))...)
	b = append(append(b, `,"capabilities":`...), x.capabilities()...)
	b = append(append(b, `,"serverInfo":`...), x.implementation()...)
	b = append(append(b, x.instructions()...), '}')
	return x.reply(http.StatusOK, jsonrpc.Result(x.id, b), HeaderLine{mcp.HeaderSession, s.ID}), nil
}

// initialized notes that the client is ready.
func (x *Exchange) initialized() (Verdict, *fault.Error) {
	if _, err := x.g.opts.Sessions.Update(x.ctx, x.Session.ID, x.Session.Owner, func(s *session.Session) *session.Session {
		if s.Initialized {
			return s
		}
		c := *s
		c.Initialized = true
		return &c
	}); err != nil {
		return nil, fault.New(fault.Internal, "the session could not be changed").Wrap(err)
	}
	return x.reply(http.StatusAccepted, nil), nil
}

// setLevel remembers the session's log level; the broker tells the servers that the session already speaks to.
func (x *Exchange) setLevel(m *jsonrpc.Message) (Verdict, *fault.Error) {
	level, ok := m.Params.Get("level").Str()
	if !ok || !slices.Contains(levels, level) {
		return nil, fault.New(fault.BadArguments, "params.level must be a log level, debug to emergency")
	}
	s, err := x.g.opts.Sessions.Update(x.ctx, x.Session.ID, x.Session.Owner, func(s *session.Session) *session.Session {
		c := *s
		c.LogLevel = level
		return &c
	})
	if err != nil {
		return nil, fault.New(fault.Internal, "the session could not be changed").Wrap(err)
	}
	if s == nil {
		return nil, fault.New(fault.NoSession, "there is no such session; send initialize again")
	}
	if len(s.Upstream) == 0 {
		return x.result([]byte("{}"))
	}
	return x.toBroker(m)
}
