package gateway

import (
	"bytes"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// check holds a call to what its item declares: mirrored arguments, spelling of keys, types of what policy reads. Its refusals are told
// only to a caller who can see the item.
func (x *Exchange) check(t *target, m *jsonrpc.Message) *fault.Error {
	item := t.entry.Item
	switch {
	case m.Method == mcp.MethodToolsCall && item.Kind == catalog.Tool:
		if !x.legacy {
			if f := x.checkMirrored(item, m); f != nil {
				return f
			}
		}
	case m.Method == mcp.MethodPromptsGet && item.Kind == catalog.Prompt:
	default:
		return nil
	}
	if len(m.Arguments.Members) == 0 {
		return nil
	}
	names, all := x.Snapshot.Policy.Reads(item)
	return inspect(x.Snapshot.shapes[item](), m.Arguments, names, all)
}

// inspect makes sure that a server which reads arguments without regard to case, or numbers as float64, reads what policy is going to
// judge. Policy may read the named arguments and all below them; the shape may be nil. At any depth,
//   - a key that is not declared must not equal, but for case, a key that is declared beside it (or, at the top, that policy may read);
//   - where policy may read: values are of the declared types, no two keys of an object are equal but for case, and a number that is no
//     integer is one that float64 holds.
func inspect(s *shape, arguments jsonrpc.Object, names []string, all bool) *fault.Error {
	var nothing shape
	if s == nil {
		s = &nothing
	}
	var w *inspector // made where something must be looked into: plain arguments cost nothing
	for _, a := range arguments.Members {
		child, declared := s.props[a.Name]
		if !declared {
			child = s.rest
			if as, near := s.near(a.Name); near {
				return misspelled(a.Name, as)
			}
		}
		if !declared || s.twins {
			if all {
				w = w.ready()
				w.note([]byte(a.Name))
			}
			for _, n := range names {
				if n != a.Name && strings.EqualFold(n, a.Name) && (!declared || arguments.Get(n).Exists()) {
					return misspelled(a.Name, n)
				}
			}
		}
		judged := all || contains(names, a.Name)
		if kind := a.Value.Kind(); kind == jsontext.KindBeginObject || kind == jsontext.KindBeginArray {
			if judged || child != nil && child.deep {
				w = w.ready()
				if f := w.enter(a, child, judged); f != nil {
					return f
				}
			}
		} else if judged {
			if why := unfit(child, kind, a.Value.Raw); why != "" {
				return fault.New(fault.BadArguments, "argument %q %s", clip(a.Name, maxPath), why)
			}
		}
	}
	if w != nil {
		if twin := w.twin(0); twin != nil {
			return fault.New(fault.BadArguments, "two arguments differ only in case: %q", clip(string(twin), maxPath))
		}
	}
	return nil
}

// maxPath is how many bytes of the path to an argument a refusal repeats.
const maxPath = 128

func misspelled(path, as string) *fault.Error {
	return fault.New(fault.BadArguments, "argument %q differs only in case from %q", clip(path, maxPath), clip(as, maxPath))
}

// unfit says why policy cannot judge a value alone, without what is below it; "" if it can.
func unfit(s *shape, kind jsontext.Kind, raw []byte) string {
	if s != nil && !s.types.accept(kind, raw) {
		return "must be of type " + s.types.String()
	}
	if kind == jsontext.KindNumber && !double(raw) {
		return "has more digits than a double holds"
	}
	return ""
}

// inspector looks into nested arguments, in one pass.
type inspector struct {
	d        *jsontext.Decoder
	src      bytes.Buffer
	argument string
	name     []byte   // of a member, where it had to be unquoted
	folded   []byte   // names of the open objects' members, end to end
	noted    [][2]int // where in folded they are
}

func (w *inspector) ready() *inspector {
	if w == nil {
		w = new(inspector)
	}
	return w
}

// enter inspects one argument that is an object or array.
func (w *inspector) enter(a jsonrpc.Member, s *shape, judged bool) *fault.Error {
	w.argument, w.src = a.Name, *bytes.NewBuffer(a.Value.Raw)
	if w.d == nil {
		w.d = jsontext.NewDecoder(&w.src, jsontext.AllowDuplicateNames(true)) // the reader found that there are none
	} else {
		w.d.Reset(&w.src, jsontext.AllowDuplicateNames(true))
	}
	return w.value(s, judged)
}

// value inspects the next value. Its depth is bounded: the reader read it already.
func (w *inspector) value(s *shape, judged bool) *fault.Error {
	if !judged && (s == nil || !s.deep) {
		return w.read(w.d.SkipValue())
	}
	kind := w.d.PeekKind()
	if kind != jsontext.KindBeginObject && kind != jsontext.KindBeginArray {
		raw, err := w.d.ReadValue()
		if err != nil {
			return w.read(err)
		}
		return w.judge(s, judged, kind, raw)
	}
	if _, err := w.d.ReadToken(); err != nil {
		return w.read(err)
	}
	if f := w.judge(s, judged, kind, nil); f != nil {
		return f
	}
	if kind == jsontext.KindBeginObject {
		return w.members(s, judged)
	}
	var items *shape
	if s != nil {
		items = s.items
	}
	for w.d.PeekKind() != jsontext.KindEndArray {
		if f := w.value(items, judged); f != nil {
			return f
		}
	}
	_, err := w.d.ReadToken()
	return w.read(err)
}

// members inspects the members of an object that has been opened.
func (w *inspector) members(s *shape, judged bool) *fault.Error {
	var nothing shape
	if s == nil {
		s = &nothing
	}
	first := len(w.noted)
	for w.d.PeekKind() != jsontext.KindEndObject {
		raw, err := w.d.ReadValue()
		if err != nil {
			return w.read(err)
		}
		name := raw[1 : len(raw)-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			if w.name, err = jsontext.AppendUnquote(w.name[:0], raw); err != nil {
				return w.read(err)
			}
			name = w.name
		}
		child, declared := s.props[string(name)]
		if !declared {
			child = s.rest
		}
		if !declared || s.twins {
			folded := w.note(name)
			if as, near := s.folded[string(folded)]; near && !declared {
				return misspelled(w.path(), as)
			}
			if !judged {
				w.forget(len(w.noted) - 1)
			}
		}
		if f := w.value(child, judged); f != nil {
			return f
		}
	}
	if _, err := w.d.ReadToken(); err != nil {
		return w.read(err)
	}
	if twin := w.twin(first); twin != nil {
		return fault.New(fault.BadArguments, "argument %q has two keys that differ only in case: %q", w.path(), clip(string(twin), maxPath))
	}
	return nil
}

func (w *inspector) judge(s *shape, judged bool, kind jsontext.Kind, raw []byte) *fault.Error {
	if !judged {
		return nil
	}
	if why := unfit(s, kind, raw); why != "" {
		return fault.New(fault.BadArguments, "argument %q %s", w.path(), why)
	}
	return nil
}

// read is the fault of an error of the decoder. The reader has read the same text, so that there is none.
func (w *inspector) read(err error) *fault.Error {
	if err == nil {
		return nil
	}
	return fault.New(fault.BadArguments, "argument %q cannot be read", clip(w.argument, maxPath)).Wrap(err)
}

// path names the value that was read last.
func (w *inspector) path() string {
	b := []byte(w.argument)
	for token := range w.d.StackPointer().Tokens() {
		if len(b) > maxPath {
			break
		}
		b = append(append(b, '.'), token...)
	}
	return clip(string(b), maxPath)
}

// note remembers a name and returns it folded.
func (w *inspector) note(name []byte) []byte {
	from := len(w.folded)
	w.folded = appendFold(w.folded, name)
	w.noted = append(w.noted, [2]int{from, len(w.folded)})
	return w.folded[from:]
}

// forget drops the names from the nth on.
func (w *inspector) forget(n int) {
	if n < len(w.noted) {
		w.folded, w.noted = w.folded[:w.noted[n][0]], w.noted[:n]
	}
}

// twin finds a name that occurs twice among the noted ones from the nth on, and forgets these.
func (w *inspector) twin(n int) []byte {
	names := w.noted[n:]
	if len(names) == 0 {
		return nil
	}
	text, from := w.folded, names[0][0]
	slices.SortFunc(names, func(a, b [2]int) int { return bytes.Compare(text[a[0]:a[1]], text[b[0]:b[1]]) })
	w.folded, w.noted = w.folded[:from], w.noted[:n]
	for i := 1; i < len(names); i++ {
		if a, b := names[i-1], names[i]; bytes.Equal(text[a[0]:a[1]], text[b[0]:b[1]]) {
			return text[b[0]:b[1]]
		}
	}
	return nil
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// checkMirrored compares Mcp-Param-* headers with the arguments they mirror (2026-07-28, "x-mcp-header").
func (x *Exchange) checkMirrored(item *catalog.Item, m *jsonrpc.Message) *fault.Error {
	for _, p := range item.Headers {
		name := mcp.HeaderParamPrefix + strings.ToLower(p.Name)
		lines := x.header.Values(name)
		v := at(m.Arguments, p.Path)
		if !v.Exists() || v.Kind() == 'n' {
			if len(lines) > 0 {
				return fault.New(fault.HeaderMismatch, "%s has no argument to repeat", name)
			}
			continue
		}
		if len(lines) != 1 {
			return fault.New(fault.HeaderMismatch, "%s must stand once and repeat its argument", name)
		}
		said, err := mcp.DecodeHeader(strings.Trim(lines[0], " \t"))
		if err != nil {
			return fault.New(fault.HeaderMismatch, "%s: %v", name, err)
		}
		if !says(said, v, p.Type) {
			return fault.New(fault.HeaderMismatch, "%s does not say what its argument says", name)
		}
	}
	return nil
}

// says compares a decoded header value with a JSON value; integers by value, so that 42.0 equals 42.
func says(said string, v jsonrpc.Value, typ string) bool {
	switch v.Kind() {
	case jsontext.KindString:
		s, _ := v.Str()
		return typ == "string" && s == said
	case jsontext.KindTrue, jsontext.KindFalse:
		return typ == "boolean" && string(v.Raw) == said
	case jsontext.KindNumber:
		if len(said) > 128 || typ != "integer" {
			return false
		}
		a, ok1 := new(big.Rat).SetString(string(v.Raw)) // the reader bounded digits and exponent
		if strings.ContainsAny(said, "eE/_xXbBoOpP") {
			return false // a header holds a plain decimal
		}
		b, ok2 := new(big.Rat).SetString(said)
		return ok1 && ok2 && a.Cmp(b) == 0
	}
	return false
}

// at finds a value below the arguments.
func at(o jsonrpc.Object, path []string) jsonrpc.Value {
	for i, name := range path {
		v := o.Get(name)
		if i == len(path)-1 || v.Kind() != jsontext.KindBeginObject {
			if i < len(path)-1 {
				return jsonrpc.Value{}
			}
			return v
		}
		var err error
		if o, err = jsonrpc.Parse(v.Raw, jsonrpc.Limits{}); err != nil {
			return jsonrpc.Value{}
		}
	}
	return jsonrpc.Value{}
}

// integral reports whether a JSON number is an integer, however it is written.
func integral(number []byte) bool {
	if !bytes.ContainsAny(number, ".eE") {
		return true
	}
	var buf [maxDigits]byte
	_, exponent := decimal(buf[:0], number)
	return exponent >= 0
}

// double reports whether a JSON number is an integer, or a decimal fraction that float64 tells from all others: the shortest text of the
// float64 is the same decimal. Policy computes with all digits; a server that uses float64 would not see that 10.0000000000000000001 is
// more than 10.
func double(number []byte) bool {
	if len(number) <= 16 && !bytes.ContainsAny(number, "eE") { // up to 15 digits beside the point: always
		return true
	}
	var buf, short [maxDigits]byte
	var text [32]byte
	digits, exponent := decimal(buf[:0], number)
	if exponent >= 0 {
		return true
	}
	f, err := strconv.ParseFloat(string(number), 64)
	if err != nil {
		return false
	}
	held, at := decimal(short[:0], strconv.AppendFloat(text[:0], f, 'e', -1, 64))
	return at == exponent && bytes.Equal(held, digits)
}

// maxDigits is how many digits the reader lets a number have.
const maxDigits = 100

// decimal takes a JSON number apart: it is digits times ten to the exponent, but for the sign. digits neither begins nor ends with a
// zero; of zero there is none.
func decimal(dst, number []byte) (digits []byte, exponent int) {
	digits = dst
	fraction := false
	for i, c := range number {
		if c|0x20 == 'e' {
			e, err := strconv.Atoi(string(number[i+1:]))
			if err != nil { // the reader bounds it
				e = 0
			}
			exponent += e
			break
		}
		switch {
		case c == '.':
			fraction = true
		case c >= '0' && c <= '9':
			if fraction {
				exponent--
			}
			if c != '0' || len(digits) > 0 {
				digits = append(digits, c)
			}
		}
	}
	for len(digits) > 0 && digits[len(digits)-1] == '0' {
		digits, exponent = digits[:len(digits)-1], exponent+1
	}
	if len(digits) == 0 {
		exponent = 0
	}
	return digits, exponent
}
