package catalog

import (
	"regexp"
	"strings"

	"github.com/yosida95/uritemplate/v3"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// Era is a protocol family, as the list of a view depends on it.
type Era uint8

// The eras.
const (
	Modern Era = iota // 2026-07-28 and later
	Legacy            // 2025-11-25 and earlier
)

// String is "modern" or "legacy".
func (e Era) String() string {
	if e == Modern {
		return "modern"
	}
	return "legacy"
}

// View is what one endpoint serves, or one server below it. It is immutable.
type View struct {
	Endpoint string // the endpoint's name; a per-server view has that of its endpoint
	Path     string
	Server   string // the one server of a per-server view, else empty

	pageSize  int
	prefix    func(server string) string
	sources   []*Source // in configuration order
	entries   [len(Kinds)][]*Entry
	modern    [len(Kinds)][]*Entry
	names     [len(Kinds)]map[string]*Entry
	templates []*Entry // in the order in which a URI is matched: who was served first matches first
	vanished  []claim
	refused   []Quarantined
	leftOut   []LeftOut
	tail      [2][]byte // what follows the items and the cursor of a list, by era
}

// Entry is an item under its public name on one view.
type Entry struct {
	Item   *Item
	Public string // what clients call it: the name with its prefix; the URI; the uriTemplate
	// Modern reports whether modern clients see it; legacy clients see every entry.
	Modern bool
	// Wraps reports that the legacy fragment's outputSchema stands one level deeper, under "result", because older
	// revisions know only objects; structuredContent of a result must be wrapped likewise.
	Wraps bool

	fragments [2][]byte
	pattern   *regexp.Regexp // of a template
	literal   string         // what a URI must begin with to match the template
}

// In reports whether clients of the era see the entry.
func (e *Entry) In(era Era) bool { return era == Legacy || e.Modern }

// Fragment is the definition as a list of the era shows it. It must not be changed.
func (e *Entry) Fragment(era Era) []byte { return e.fragments[era] }

// Resolve finds an item by its public name: a tool's or prompt's name, a resource's URI, a uriTemplate. Nil where
// there is none. The caller checks [Entry.In].
func (v *View) Resolve(kind Kind, public string) *Entry {
	if int(kind) >= len(v.names) {
		return nil
	}
	return v.names[kind][public]
}

// ResolveURI finds the resource with this URI, else the first template that the URI matches (RFC 6570). Matching takes
// time linear in the URI, whose length is bounded, for each template whose literal beginning agrees.
//
// Policy judges the text of a URI, and a server may resolve that text to something else: where {+path} matches, so does
// "../secret", and "%2e%2e" for a server that decodes first. So a template is matched only by a URI in its normal form
// (RFC 3986, section 6.2.2), and in one spelling where servers differ in what they decode: without dot segments, which an
// authority must not be either; without an escape of an unreserved character, one in lower-case hexadecimal or one that is
// cut; without "%2F" and "%5C" before the query; without backslashes, spaces and control characters; and without upper case
// in what scheme and host add to the template's literal beginning. The exact URI of a resource is found as it is declared.
func (v *View) ResolveURI(uri string) *Entry {
	if e := v.names[Resource][uri]; e != nil {
		return e
	}
	if len(uri) > maxURI {
		return nil
	}
	upper, ok := normal(uri)
	if !ok {
		return nil
	}
	for _, e := range v.templates {
		if upper < len(e.literal) && strings.HasPrefix(uri, e.literal) && e.pattern.MatchString(uri) {
			return e
		}
	}
	return nil
}

// normal reports whether a URI is spelled as [View.ResolveURI] wants it, but for upper case in scheme and host, of which it
// says where the last stands; -1 is nowhere.
func normal(uri string) (upper int, ok bool) {
	begin, end := 0, len(uri) // of the authority and path
	if i := strings.IndexAny(uri, ":/?#"); i >= 0 && uri[i] == ':' {
		begin = i + 1
	}
	if i := strings.IndexAny(uri, "?#"); i >= 0 {
		end = i
	}
	for segment := range strings.SplitSeq(uri[begin:end], "/") {
		if segment == "." || segment == ".." {
			return 0, false
		}
	}
	host, hostEnd := end, end
	if after, is := strings.CutPrefix(uri[begin:end], "//"); is {
		authority, _, _ := strings.Cut(after, "/")
		hostEnd = begin + len("//") + len(authority)
		host = hostEnd - len(authority) + strings.LastIndexByte(authority, '@') + 1
	}
	upper = -1
	for i := 0; i < len(uri); i++ {
		switch c := uri[i]; {
		case c <= ' ' || c == 0x7f || c == '\\':
			return 0, false
		case c == '%':
			if i+2 >= len(uri) {
				return 0, false
			}
			high, low := strings.IndexByte(hexDigits, uri[i+1]), strings.IndexByte(hexDigits, uri[i+2])
			if high < 0 || low < 0 {
				return 0, false
			}
			if d := byte(high<<4 | low); unreserved(d) || i < end && (d == '/' || d == '\\') {
				return 0, false
			}
			i += 2
		case 'A' <= c && c <= 'Z' && (i < begin || host <= i && i < hostEnd):
			upper = i
		}
	}
	return upper, true
}

const hexDigits = "0123456789ABCDEF" // of escapes in normal form (RFC 3986, section 6.2.2.1)

// unreserved is the set of RFC 3986, section 2.3.
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// Entries lists what clients of the era may see, in the order of lists: servers as configured, items as their server
// orders them. The slice is shared and must not be changed.
func (v *View) Entries(kind Kind, era Era) []*Entry {
	if era == Modern {
		return v.modern[kind]
	}
	return v.entries[kind]
}

// Servers lists the sources of the view in configuration order, those without items too. The slice is shared.
func (v *View) Servers() []*Source { return v.sources }

// newEntry prepares an item for lists; the error is why it cannot be served under this name.
func newEntry(i *Item, public string, modern bool) (*Entry, error) {
	e := &Entry{Item: i, Public: public, Modern: modern}
	switch i.Kind {
	case Tool, Prompt:
		if err := checkName(public); err != nil {
			return nil, err
		}
		if err := e.splice(); err != nil {
			return nil, err
		}
	case Template:
		t, err := uritemplate.New(i.Name)
		if err != nil {
			return nil, err
		}
		e.pattern = t.Regexp()
		e.literal, _, _ = strings.Cut(i.Name, "{")
		e.fragments = [2][]byte{i.Definition, i.Definition}
	default:
		e.fragments = [2][]byte{i.Definition, i.Definition}
	}
	return e, nil
}

// splice writes the public name into the definition, and for each era what that era demands.
func (e *Entry) splice() error {
	i := e.Item
	o, err := jsonrpc.Parse(i.Definition, jsonrpc.Limits{Depth: maxDepth})
	if err != nil {
		return err
	}
	var both, legacy []jsonrpc.Edit
	if e.Public != i.Name {
		n := o.Get("name")
		both = append(both, jsonrpc.Edit{Pos: n.Pos, Len: len(n.Raw), Text: jsonrpc.AppendString(nil, e.Public)})
	}
	if out := o.Get("outputSchema"); i.Kind == Tool && out.Exists() {
		if s, err := jsonrpc.Parse(out.Raw, jsonrpc.Limits{}); err == nil && text(s, "type") != "object" {
			e.Wraps = true
			legacy = append(legacy, jsonrpc.Edit{Pos: out.Pos, Len: len(out.Raw), Text: wrapSchema(out.Raw)})
		}
	}
	e.fragments[Modern] = i.Definition
	if len(both) > 0 {
		e.fragments[Modern] = jsonrpc.Splice(i.Definition, both...)
	}
	e.fragments[Legacy] = e.fragments[Modern]
	if len(legacy) > 0 {
		e.fragments[Legacy] = jsonrpc.Splice(i.Definition, ordered(append(both, legacy...))...)
	}
	return nil
}

// wrapSchema makes an object schema of one that is not. References inside it count from the schema's root, which
// moves; where there are any, the wrapped schema says nothing of the result.
func wrapSchema(schema []byte) []byte {
	if strings.Contains(string(schema), `$ref"`) || strings.Contains(string(schema), `$dynamicRef"`) {
		schema = []byte("{}")
	}
	return append(append([]byte(`{"type":"object","properties":{"result":`), schema...), `},"required":["result"]}`...)
}

func ordered(edits []jsonrpc.Edit) []jsonrpc.Edit {
	if len(edits) == 2 && edits[0].Pos > edits[1].Pos {
		edits[0], edits[1] = edits[1], edits[0]
	}
	return edits
}
