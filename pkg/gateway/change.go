package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/edit"
	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/policy"
	servers "github.com/mcpgw/mcpgw/pkg/upstream"
)

// defaultChange is how long a body after a rewrite, or a message to be redacted, may be where nothing is configured.
const defaultChange = 4 << 20

func orDefault(bytes int) int {
	if bytes <= 0 {
		return defaultChange
	}
	return bytes
}

// changes is what policy demands to be changed of one call.
type changes struct {
	arguments *edit.Editor // before the server sees them; nil: nothing
	result    *Redaction   // before the client sees it; nil: nothing

	set    []HeaderLine // headers that mirror arguments as they are after the rewrite
	remove []string
}

// oblige takes on what a ruling demands beside the call, except for labels, which mark gives. What cannot be done refuses.
func (x *Exchange) oblige(o *policy.Obligations) *fault.Error {
	if o == nil {
		return nil
	}
	if x.Lane == LaneAuthorize && len(o.Rewrite)+len(o.Redact) > 0 {
		return fault.New(fault.Internal, "policy demands a change of this call that cannot be made here") // that rim can only let pass or refuse
	}
	var err error
	if x.changes.arguments, err = x.editor(o.Rewrite); err != nil {
		return unchangeable(err)
	}
	if len(o.Redact) > 0 {
		e, err := x.editor(o.Redact)
		if err != nil {
			return unchangeable(err)
		}
		x.changes.result = &Redaction{e, orDefault(x.Snapshot.Settings.RedactBytes)}
	}
	x.Redactions = len(o.Redact)
	return nil
}

func (x *Exchange) editor(changes []policy.Change) (*edit.Editor, error) {
	if len(changes) == 0 {
		return nil, nil
	}
	out := make([]edit.Change, len(changes))
	for i, c := range changes {
		out[i] = edit.Change(c)
	}
	return x.g.patterns.Compile(out)
}

// unchangeable is the fault of a call that cannot be made as policy demands. Why is for the log: it may tell of other callers' rules.
func unchangeable(err error) *fault.Error {
	return fault.New(fault.Internal, "policy demands a change of this call that cannot be made").Wrap(err)
}

// rewrite changes the arguments as policy demands. The message it returns is the client's in all other bytes; t names the same item in it.
func (x *Exchange) rewrite(t *target, m *jsonrpc.Message) (*jsonrpc.Message, *fault.Error) {
	if x.changes.arguments == nil {
		return m, nil
	}
	if m.Method != mcp.MethodToolsCall && m.Method != mcp.MethodPromptsGet {
		return nil, unchangeable(fmt.Errorf("%s has no arguments to rewrite", m.Method))
	}
	most := orDefault(x.Snapshot.Settings.BodyBytes)
	arguments, changed, err := x.changes.arguments.Arguments(m.Arguments.Raw, most)
	if err != nil {
		return nil, unchangeable(fmt.Errorf("rewrite: %w", err))
	}
	if changed == 0 {
		return m, nil
	}
	e := jsonrpc.Edit{Pos: m.Arguments.Pos, Len: len(m.Arguments.Raw), Text: arguments}
	if !m.Arguments.Exists() {
		e = jsonrpc.Edit{Pos: t.value.Pos + len(t.value.Raw), Text: append([]byte(`,"arguments":`), arguments...)}
	}
	body := jsonrpc.Splice(m.Body, e)
	if len(body) > most {
		return nil, unchangeable(errors.New("rewrite: the body is longer than limits.body_bytes"))
	}
	out, err := jsonrpc.Read(body, jsonrpc.Limits{Depth: x.Snapshot.Settings.Depth})
	if err != nil {
		return nil, unchangeable(fmt.Errorf("rewrite: %w", err))
	}
	if f := x.fits(t, m, out); f != nil {
		return nil, f
	}
	if err := x.mirror(t, m, out); err != nil {
		return nil, unchangeable(fmt.Errorf("rewrite: %w", err))
	}
	t.value = out.Params.Get(x.row.Param)
	x.Rewritten = changed
	return out, nil
}

// fits holds the arguments that were rewritten by name to what the item declares, as the client's were that policy read. A client is
// told only of what was wrong in its own.
func (x *Exchange) fits(t *target, before, after *jsonrpc.Message) *fault.Error {
	shape := x.Snapshot.shapes[t.entry.Item]
	if shape == nil {
		return nil
	}
	names, all := x.changes.arguments.Paths()
	f := inspect(shape(), after.Arguments, names, all)
	if f == nil {
		return nil
	}
	if own := inspect(shape(), before.Arguments, names, all); own != nil {
		return own
	}
	return unchangeable(fmt.Errorf("rewrite: %w", f))
}

// mirror makes the headers that repeat arguments which were rewritten say what these say now. The client's others stay.
func (x *Exchange) mirror(t *target, before, after *jsonrpc.Message) error {
	if x.legacy || after.Method != mcp.MethodToolsCall {
		return nil
	}
	touched := &catalog.Item{Headers: slices.DeleteFunc(slices.Clone(t.entry.Item.Headers), func(p mcp.ParamHeader) bool {
		return bytes.Equal(at(before.Arguments, p.Path).Raw, at(after.Arguments, p.Path).Raw)
	})}
	said, err := servers.ModernHeaders(after, touched)
	if err != nil {
		return err
	}
	for _, p := range touched.Headers {
		name := mcp.HeaderParamPrefix + strings.ToLower(p.Name)
		if v := said[http.CanonicalHeaderKey(name)]; len(v) > 0 {
			x.changes.set = append(x.changes.set, HeaderLine{name, v[0]})
		} else if x.header.Get(name) != "" {
			x.changes.remove = append(x.changes.remove, name)
		}
	}
	return nil
}

// Redaction is what the result of one call, and what the server says on the way to it, must undergo before the client sees it.
type Redaction struct {
	*edit.Editor
	Most int // the longest message that is redacted, in bytes; a longer one must not be shown
}

// Redaction is nil where nothing is to be redacted.
func (x *Exchange) Redaction() *Redaction { return x.changes.result }

// Unredacted is the fault of a call whose result could not be redacted: the server may have run it, and what it said is kept back.
func Unredacted(server string) *fault.Error {
	return fault.New(fault.Upstream, "the answer of the server cannot be shown as policy demands").
		With([]byte(fmt.Sprintf(`{"server":%q,"reason":"unredacted"}`, server)))
}
