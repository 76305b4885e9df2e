package jsonrpc

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits bounds what is read. The length of the text is the caller's to bound, before it is read.
type Limits struct {
	Depth int // nesting of objects and arrays, the outermost included; 0 means DefaultDepth
}

// Bounds of what is read.
const (
	DefaultDepth = 64 // nesting when Limits.Depth is 0

	maxDigits   = 100  // digits of one number, the exponent's included: more stall big-number arithmetic
	maxExponent = 308  // of one number, either sign: beyond it a float64 is infinite or zero, and a big number huge
	maxID       = 1024 // bytes of an id's JSON text
	maxMethod   = 256  // bytes of a decoded method

	// maxNames is how many members the objects that are open at one time may have together. To find duplicates the decoder remembers all their names,
	// at ten times their bytes and more.
	maxNames = 1 << 16
)

// Read reads the one JSON-RPC message that body consists of. The error is an *[Error]. The message aliases body.
//
// Refused as [Malformed] is what is not JSON: bad syntax, bytes after the text, invalid UTF-8, a lone surrogate. Refused as [Invalid] is JSON that two
// parsers may understand differently, that is costly to hold, or that is no message:
//   - a duplicate key at any depth; a key of the envelope, params, params._meta or params.ref that equals a known key of that place only when case is folded
//   - nesting beyond the limit; more than 65,536 members in an object and those around it; a number with more than 100 digits or an exponent beyond ±308
//   - jsonrpc other than "2.0"; a method that is no string, empty, or longer than 256 bytes
//   - an id that is neither a string nor an integer, or longer than 1024 bytes (an error response may have a null id)
//   - params, params._meta, params.ref, params.arguments or error that is not an object
//   - method, result and error together, or none of them; an array (a batch)
//
// Where a text has several faults, bad syntax is the one reported, unless it comes after nesting beyond the limit.
func Read(body []byte, l Limits) (*Message, error) {
	r := open(body, l)
	defer r.close()
	m, err := r.message()
	if err != nil {
		return nil, r.refuse(err)
	}
	return m, nil
}

// Parse reads raw, the text of one JSON object, as strictly as [Read] reads a message, and indexes its members. The object aliases raw. The error is
// an *[Error] without an ID.
func Parse(raw []byte, l Limits) (Object, error) {
	r := open(raw, l)
	defer r.close()
	v, err := r.text(inner)
	if err == nil && v.Kind() != jsontext.KindBeginObject {
		err = invalid("not a JSON object")
	}
	if err != nil {
		err = r.refuse(err)
		err.ID = nil
		return Object{}, err
	}
	return Object{Value: v, Members: r.index()[inner]}, nil
}

// A level is a place in the message whose members are indexed, each at its own level.
//
// The rule: every object of a message from which a decision is taken is a level, with the keys that decide in [level.known]. An object that is merely
// parsed later has no near-key check, and another reader may find other members in it. Only params.arguments has no fixed keys: who judges it knows them.
type level int8

const (
	leaf     level = iota - 1 // not indexed
	envelope                  // the message itself
	params                    // params
	meta                      // params._meta
	ref                       // params.ref
	inner                     // params.arguments, and the one object of Parse
	levels   = 5
)

// child is the level of a member's value.
func (l level) child(name []byte) level {
	switch {
	case l == envelope && string(name) == "params":
		return params
	case l == params && string(name) == "_meta":
		return meta
	case l == params && string(name) == "ref":
		return ref
	case l == params && string(name) == "arguments":
		return inner
	}
	return leaf
}

// A span is a member in the scratch index: offsets only, so that a pooled reader holds on to no one's bytes.
type span struct {
	nameFrom, nameTo int // of the decoded name in reader.names
	pos, end         int // of the value in the body
}

// A reader is the state of one reading. Readers are pooled because the decoder's stacks and the scratch index are what a reading would otherwise
// allocate: some forty small pieces a message. Between readings they hold no one's bytes but member names.
type reader struct {
	dec   jsontext.Decoder
	src   bytes.Buffer // over body: the decoder then reads the bytes in place
	body  []byte
	depth int
	open  int            // members so far of the objects that are open
	names []byte         // decoded names of all indexed members, end to end
	spans [levels][]span // the members of each level, in order
}

var readers = sync.Pool{New: func() any { return new(reader) }}

// maxPooled is how large a text a reader may have read and still be pooled: the decoder keeps the names of large objects until it meets others.
const maxPooled = 64 << 10 // bytes

func open(body []byte, l Limits) *reader {
	r := readers.Get().(*reader)
	r.body, r.depth = body, l.Depth
	if r.depth <= 0 {
		r.depth = DefaultDepth
	}
	r.src = *bytes.NewBuffer(body)
	r.dec.Reset(&r.src)
	return r
}

func (r *reader) close() {
	if len(r.body) > maxPooled {
		return
	}
	r.body, r.src = nil, bytes.Buffer{}
	r.dec.Reset(&r.src)
	r.names, r.open = r.names[:0], 0
	for i := range r.spans {
		r.spans[i] = r.spans[i][:0]
	}
	readers.Put(r)
}

// text reads the one value that the body consists of.
func (r *reader) text(l level) (Value, *Error) {
	v, e := r.value(l)
	if e != nil {
		return Value{}, e
	}
	return v, r.finish()
}

// finish makes sure that nothing but white space is left.
func (r *reader) finish() *Error {
	if _, err := r.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return malformed("bytes after the JSON text, at byte %d", r.dec.InputOffset())
	}
	return nil
}

// value reads the next value and, if it is an object at a level that is indexed, notes its members.
func (r *reader) value(l level) (Value, *Error) {
	if l == leaf || r.dec.PeekKind() != jsontext.KindBeginObject {
		return r.skip()
	}
	v, e := r.begin()
	if e != nil {
		return v, e
	}
	for r.dec.PeekKind() != jsontext.KindEndObject {
		raw, err := r.dec.ReadValue()
		if err != nil {
			return v, fault(err, r.dec.InputOffset())
		}
		s := span{nameFrom: len(r.names)}
		r.names, err = appendName(r.names, raw)
		if err != nil {
			return v, fault(err, r.dec.InputOffset())
		}
		s.nameTo = len(r.names)
		name := r.names[s.nameFrom:s.nameTo]
		if known := nearly(name, l.known()); known != "" {
			return v, invalid("key %q at byte %d differs from %q only in case", short(string(name)), r.dec.InputOffset()-int64(len(raw)), known)
		}
		if e := r.member(); e != nil {
			return v, e
		}
		child, e := r.value(l.child(name))
		if e != nil {
			return v, e
		}
		s.pos, s.end = child.Pos, child.Pos+len(child.Raw)
		r.spans[l] = append(r.spans[l], s)
	}
	if e := r.end(); e != nil {
		return v, e
	}
	return r.since(v.Pos), nil
}

// begin reads the opening of an object or array.
func (r *reader) begin() (Value, *Error) {
	if _, err := r.dec.ReadToken(); err != nil {
		return Value{}, fault(err, r.dec.InputOffset())
	}
	v := Value{Pos: int(r.dec.InputOffset()) - 1}
	if r.dec.StackDepth() > r.depth {
		return v, invalid("nested deeper than %d, at byte %d", r.depth, v.Pos)
	}
	return v, nil
}

// end reads the end of an object or array.
func (r *reader) end() *Error {
	if kind, n := r.dec.StackIndex(r.dec.StackDepth()); kind == jsontext.KindBeginObject {
		r.open -= int(n / 2) // names and values count as one each
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return fault(err, r.dec.InputOffset())
	}
	return nil
}

// member counts a member whose name has been read.
func (r *reader) member() *Error {
	if r.open++; r.open > maxNames {
		return invalid("objects with more than %d members, at byte %d", maxNames, r.dec.InputOffset())
	}
	return nil
}

// skip reads the next value whole; all of it is checked, none of it noted.
func (r *reader) skip() (Value, *Error) {
	base, pos := r.dec.StackDepth(), -1
	for {
		var start int
		switch kind := r.dec.PeekKind(); kind {
		case jsontext.KindBeginObject, jsontext.KindBeginArray:
			v, e := r.begin()
			if e != nil {
				return v, e
			}
			start = v.Pos
		case jsontext.KindEndObject, jsontext.KindEndArray:
			if e := r.end(); e != nil {
				return Value{}, e
			}
		default:
			raw, err := r.dec.ReadValue()
			if err != nil {
				return Value{}, fault(err, r.dec.InputOffset())
			}
			start = int(r.dec.InputOffset()) - len(raw)
			if kind == jsontext.KindString {
				if in, n := r.dec.StackIndex(r.dec.StackDepth()); in == jsontext.KindBeginObject && n%2 == 1 { // a name
					if e := r.member(); e != nil {
						return Value{}, e
					}
				}
			}
			if kind == jsontext.KindNumber && !holdable(raw) {
				return Value{}, invalid("the number at byte %d has more than %d digits or an exponent beyond ±%d", start, maxDigits, maxExponent)
			}
		}
		if pos < 0 {
			pos = start
		}
		if r.dec.StackDepth() == base {
			return r.since(pos), nil
		}
	}
}

// since is the value from pos to where the decoder stands.
func (r *reader) since(pos int) Value {
	end := int(r.dec.InputOffset())
	return Value{Raw: r.body[pos:end:end], Pos: pos}
}

// index turns the scratch index into members. All names share one string and all members one slice.
func (r *reader) index() (out [levels][]Member) {
	n := 0
	for _, spans := range r.spans[params:] {
		n += len(spans)
	}
	if n == 0 {
		return out
	}
	names, all := string(r.names), make([]Member, 0, n)
	for l := params; l < levels; l++ {
		from := len(all)
		for _, s := range r.spans[l] {
			all = append(all, Member{names[s.nameFrom:s.nameTo], Value{r.body[s.pos:s.end:s.end], s.pos}})
		}
		if from < len(all) {
			out[l] = slices.Clip(all[from:])
		}
	}
	return out
}

// message reads the body as a message.
func (r *reader) message() (*Message, *Error) {
	v, e := r.text(envelope)
	if e != nil {
		return nil, e
	}
	switch v.Kind() {
	case jsontext.KindBeginObject:
	case jsontext.KindBeginArray:
		return nil, invalid("batches are not accepted: send one message at a time")
	default:
		return nil, invalid("a message is a JSON object")
	}
	m := &Message{Body: r.body}
	var version, id Value
	for _, s := range r.spans[envelope] {
		v := Value{r.body[s.pos:s.end:s.end], s.pos}
		switch string(r.names[s.nameFrom:s.nameTo]) {
		case "jsonrpc":
			version = v
		case "id":
			id = v
		case "method":
			m.MethodValue = v
		case "params":
			m.Params.Value = v
		case "result":
			m.Result = v
		case "error":
			m.Error = v
		}
	}
	if string(version.Raw) != `"2.0"` { // written with escapes it is refused as well: no honest client does that
		return nil, invalid(`jsonrpc must be "2.0"`)
	}
	if e := m.classify(id); e != nil {
		return nil, e
	}
	members := r.index()
	m.Params.Members, m.Meta.Members, m.Ref.Members, m.Arguments.Members = members[params], members[meta], members[ref], members[inner]
	m.Meta.Value, m.Ref.Value, m.Arguments.Value = m.Params.Get("_meta"), m.Params.Get("ref"), m.Params.Get("arguments")
	for _, o := range []struct {
		name string
		Value
	}{{"params", m.Params.Value}, {"params._meta", m.Meta.Value}, {"params.ref", m.Ref.Value}, {"params.arguments", m.Arguments.Value}} {
		if o.Exists() && o.Kind() != jsontext.KindBeginObject {
			return nil, invalid("%s must be an object", o.name)
		}
	}
	return m, nil
}

// classify says what the message is and checks what each kind needs.
func (m *Message) classify(id Value) *Error {
	method, result, fail := m.MethodValue.Exists(), m.Result.Exists(), m.Error.Exists()
	switch {
	case method && (result || fail):
		return invalid("method beside result or error: a message is a request or a response")
	case result && fail:
		return invalid("result beside error")
	case method:
		m.Kind = Request
		if !id.Exists() {
			m.Kind = Notification
		}
		var ok bool
		if m.Method, ok = m.MethodValue.Str(); !ok || m.Method == "" || len(m.Method) > maxMethod {
			return invalid("method must be a string of 1 to %d bytes", maxMethod)
		}
	case result || fail:
		m.Kind = Response
		if !id.Exists() {
			return invalid("a response needs an id")
		}
		if fail && m.Error.Kind() != jsontext.KindBeginObject {
			return invalid("error must be an object")
		}
		if fail && id.Kind() == jsontext.KindNull {
			return nil // the sender could not read the id of what it answers
		}
	default:
		return invalid("neither method nor result nor error: not a request, notification or response")
	}
	if id.Exists() {
		if !legalID(id.Raw) {
			return invalid("id must be a string or an integer of at most %d bytes", maxID)
		}
		m.ID = id.Raw
	}
	return nil
}

// refuse completes a refusal: with the id where that is certain, and as bad syntax where that follows. It reads the text again, more leniently; only
// refused texts pay for it.
func (r *reader) refuse(e *Error) *Error {
	if e.Kind != Invalid {
		return e
	}
	deep := r.dec.StackDepth() > r.depth
	id, bad := r.echo()
	if bad != nil {
		if deep { // what lies beyond the limit is not worth telling apart
			return e
		}
		return bad
	}
	e.ID = id
	return e
}

// echo returns the id of a refused text, nil if there is none, more than one or an illegal one, and an error if the text is not JSON.
func (r *reader) echo() (id []byte, bad *Error) {
	r.src = *bytes.NewBuffer(r.body)
	r.dec.Reset(&r.src, jsontext.AllowDuplicateNames(true))
	object, ids := r.dec.PeekKind() == jsontext.KindBeginObject, 0
	for {
		var raw []byte
		var err error
		switch kind := r.dec.PeekKind(); {
		case r.dec.StackDepth() == 0 && object, kind == jsontext.KindEndObject:
			_, err = r.dec.ReadToken()
		case !object:
			err = r.dec.SkipValue()
		default:
			if raw, err = r.dec.ReadValue(); err != nil {
				break
			}
			if name, _ := appendName(nil, raw); string(name) != "id" {
				err = r.dec.SkipValue()
				break
			}
			if raw, err = r.dec.ReadValue(); err == nil {
				if ids++; ids == 1 && legalID(raw) {
					id = slices.Clone(raw)
				} else {
					id = nil
				}
			}
		}
		if err != nil {
			return nil, fault(err, r.dec.InputOffset())
		}
		if r.dec.StackDepth() == 0 {
			return id, r.finish()
		}
	}
}

// legalID reports whether the JSON text is an id: a string, or an integer written without fraction and exponent.
func legalID(raw []byte) bool {
	if len(raw) > maxID {
		return false
	}
	switch jsontext.Value(raw).Kind() {
	case jsontext.KindString:
		return true
	case jsontext.KindNumber:
		return !bytes.ContainsAny(raw, ".eE") && holdable(raw)
	}
	return false
}

// appendName decodes a JSON string.
func appendName(dst, raw []byte) ([]byte, error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return append(dst, raw[1:len(raw)-1]...), nil
	}
	return jsontext.AppendUnquote(dst, raw)
}

// holdable reports whether a JSON number is short enough for big-number arithmetic, looking at no more of it than it must.
func holdable(raw []byte) bool {
	digits, exponent, inExponent := 0, 0, false
	for _, c := range raw {
		switch {
		case c >= '0' && c <= '9':
			if digits++; digits > maxDigits {
				return false
			}
			if inExponent {
				if exponent = exponent*10 + int(c-'0'); exponent > maxExponent {
					return false
				}
			}
		case c == 'e' || c == 'E':
			inExponent = true
		}
	}
	return true
}

// The known keys of each level: what some part of the gateway or of a server reads there.
var (
	knownMessage = [...]string{ // of the envelope and of params
		"jsonrpc", "id", "method", "params", "result", "error",
		"name", "arguments", "uri", "cursor", "ref", "argument", "context", "_meta", "inputResponses", "requestState",
		"protocolVersion", "capabilities", "clientInfo", "level", "requestId", "progressToken", "progress", "total", "message", "reason",
		"notifications", "taskId", "task",
	}
	knownMeta = [...]string{
		"io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities", "io.modelcontextprotocol/clientInfo",
		"io.modelcontextprotocol/serverInfo", "io.modelcontextprotocol/logLevel", "io.modelcontextprotocol/subscriptionId",
		"progressToken", "traceparent",
	}
	knownRef = [...]string{"type", "name", "uri"}
)

// known lists the keys of a level whose spelling matters.
func (l level) known() []string {
	switch l {
	case envelope, params:
		return knownMessage[:]
	case meta:
		return knownMeta[:]
	case ref:
		return knownRef[:]
	}
	return nil
}

// nearly returns the known key that name equals only when case is folded, or "". Parsers that match without regard to case (Go's encoding/json is one)
// would read such a member as the known one, and even a key outside ASCII folds to one: U+212A, the Kelvin sign, to k.
func nearly(name []byte, known []string) string {
	for _, k := range known {
		if string(name) == k {
			return ""
		}
	}
	for _, k := range known {
		if bytes.EqualFold(name, []byte(k)) {
			return k
		}
	}
	return ""
}
