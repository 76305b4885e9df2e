package stdio

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// startTime bounds the whole start of a child, handshake included. A command such as npx may fetch a package first.
const startTime = 2 * time.Minute

// face is what a child turned out to be. It is immutable.
type face struct {
	era       string // modern or legacy
	revision  string // of the handshake, or the newest that server/discover named
	supported []byte // JSON array of the versions that it takes
	// initialize is the recorded result of a shared legacy child, as it may be told to every client; nil for a modern one.
	initialize []byte
	// link is the shared child; nil where every session has its own.
	link *link
}

func (f *face) modern() bool { return f.era == mcp.R20260728.Era() }

// errModern says that a refusal of initialize came from a modern child.
var errModern = errors.New("the child refuses initialize: it is modern")

// negotiate finds out what the child speaks ("stdio", Backward Compatibility): server/discover first, unless probe is false, then
// initialize on the same process. That is safe even where the probe went unanswered: whichever of the two answers comes, it tells. A
// child that started slowly and reads both finds the probe first, answers it as a modern one and may refuse the initialize.
// unanswered reports that the era was found without an answer to the probe: the next start may spare it.
func negotiate(ctx context.Context, l *link, probe bool) (f *face, unanswered bool, err error) {
	var discover *call
	if probe {
		if f, discover, err = probeModern(ctx, l); f != nil || err != nil {
			return f, false, err
		}
	}
	f, err = shakeHands(ctx, l, discover)
	if errors.Is(err, errModern) { // once more, now that the era is known and the child is up
		if f, _, err = probeModern(ctx, l); f == nil && err == nil {
			err = errors.New("the child answers neither server/discover nor initialize")
		}
		return f, false, err
	}
	return f, discover != nil, err
}

// probeModern asks server/discover. It returns a face for a modern child, nil for one that answered as a legacy one does, and the
// open call where none answered in time.
func probeModern(ctx context.Context, l *link) (*face, *call, error) {
	discover, fail := l.ask(mcp.MethodDiscover, `{"_meta":{"`+mcp.MetaVersion+`":"`+string(mcp.R20260728)+`","`+mcp.MetaCapabilities+`":{},"`+
		mcp.MetaClientInfo+`":`+clientInfo(l.o)+`}}`)
	if fail != nil {
		return nil, nil, fail
	}
	t := time.NewTimer(l.o.ProbeTimeout)
	defer t.Stop()
	select {
	case <-discover.done:
		f, err := judge(l, discover)
		return f, nil, err
	case <-t.C:
		return nil, discover, nil
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("server/discover: %w", ctx.Err())
	}
}

// judge reads the answer to server/discover. No face and no error mean a legacy child: by the specification every error but a
// recognized modern one does, whatever its code, and go-sdk's legacy servers answer with a list of legacy versions.
func judge(l *link, c *call) (*face, error) {
	defer l.release(c)
	if c.fail != nil {
		return nil, fmt.Errorf("server/discover: %w", c.fail)
	}
	if e := c.answer.Error; e.Exists() {
		code, data := errorParts(e.Raw)
		switch code {
		case mcp.CodeHeaderMismatch, mcp.CodeCapability:
			return nil, fmt.Errorf("server/discover is refused with code %d", code)
		case mcp.CodeVersion:
			list := versions(data, "supported")
			if _, legacy := pick(list); len(list) > 0 && !legacy {
				return nil, fmt.Errorf("the child speaks %q only", list)
			}
		}
		return nil, nil
	}
	if modern, _ := pick(versions(c.answer.Result.Raw, "supportedVersions")); modern == "" {
		return nil, nil
	}
	o, err := jsonrpc.Parse(c.answer.Result.Raw, jsonrpc.Limits{})
	if err != nil {
		return nil, fmt.Errorf("server/discover: %w", err)
	}
	return &face{era: mcp.R20260728.Era(), revision: string(mcp.R20260728), supported: o.Get("supportedVersions").Raw, link: l}, nil
}

// pick finds in a list of versions the newest modern one that we speak, and whether there is a legacy one.
func pick(list []string) (modern mcp.Revision, legacy bool) {
	for _, v := range list {
		switch r := mcp.Revision(v); {
		case r.Modern() && r > modern:
			modern = r
		case r.Known() && !r.Modern():
			legacy = true
		}
	}
	return modern, legacy
}

// shakeHands does the legacy handshake with empty client capabilities: a child that is shared must not ask its clients for anything.
// late, if not nil, is a probe that may still be answered.
func shakeHands(ctx context.Context, l *link, late *call) (*face, error) {
	initialize, fail := l.ask(mcp.MethodInitialize, `{"protocolVersion":"`+string(mcp.LatestLegacy)+`","capabilities":{},"clientInfo":`+clientInfo(l.o)+`}`)
	if fail != nil {
		return nil, fail
	}
	var probed <-chan struct{}
	if late != nil {
		probed = late.done
	}
	for {
		select {
		case <-initialize.done:
			return shaken(l, initialize)
		case <-probed:
			probed = nil
			if f, err := judge(l, late); f != nil && err == nil {
				return f, nil // the answer to initialize, a refusal, will find no call
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("initialize: %w", ctx.Err())
		}
	}
}

// shaken reads the answer to initialize and ends the handshake.
func shaken(l *link, c *call) (*face, error) {
	defer l.release(c)
	if c.fail != nil {
		return nil, fmt.Errorf("initialize: %w", c.fail)
	}
	if e := c.answer.Error; e.Exists() {
		if code, _ := errorParts(e.Raw); code == mcp.CodeVersion {
			return nil, errModern
		}
		return nil, fmt.Errorf("initialize is refused: %s", clip(e.Raw))
	}
	result, err := jsonrpc.Parse(c.answer.Result.Raw, jsonrpc.Limits{})
	if err != nil {
		return nil, fmt.Errorf("initialize: %w", err)
	}
	version, _ := result.Get("protocolVersion").Str()
	if r := mcp.Revision(version); !r.Known() || r.Modern() {
		return nil, fmt.Errorf("initialize is answered with version %q, which the gateway does not speak", version)
	}
	if f := l.tell([]byte(`{"jsonrpc":"2.0","method":"` + mcp.NotifyInitialized + `"}`)); f != nil {
		return nil, f
	}
	return &face{era: mcp.LatestLegacy.Era(), revision: version, supported: jsonArray(version), initialize: sharedResult(result), link: l}, nil
}

// sharedResult is a child's initialize result as clients that share it are told it. Resource subscriptions and tasks are the child's
// state, which it would keep for all of them as if they were one; so they are not offered.
func sharedResult(result jsonrpc.Object) []byte {
	var edits []jsonrpc.Edit
	caps := result.Get("capabilities")
	o, err := jsonrpc.Parse(caps.Raw, jsonrpc.Limits{})
	if err != nil {
		return result.Raw
	}
	for _, m := range o.Members {
		switch m.Name {
		case "tasks":
			edits = append(edits, jsonrpc.Edit{Pos: caps.Pos + m.Value.Pos, Len: len(m.Value.Raw), Text: []byte("{}")})
		case "resources":
			if r, err := jsonrpc.Parse(m.Value.Raw, jsonrpc.Limits{}); err == nil {
				if sub := r.Get("subscribe"); string(sub.Raw) == "true" {
					edits = append(edits, jsonrpc.Edit{Pos: caps.Pos + m.Value.Pos + sub.Pos, Len: len(sub.Raw), Text: []byte("false")})
				}
			}
		}
	}
	return jsonrpc.Splice(result.Raw, edits...)
}

func clientInfo(o *Options) string {
	return string(append(jsonrpc.AppendString([]byte(`{"name":"mcpgw","version":`), o.Version), '}'))
}

func jsonArray(version string) []byte {
	return append(jsonrpc.AppendString([]byte("["), version), ']')
}

// clip shortens a child's words for an error message.
func clip(b []byte) []byte { return b[:min(len(b), 512)] }
