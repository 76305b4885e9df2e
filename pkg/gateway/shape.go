package gateway

import (
	"bytes"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// shape is what a declaration says of one JSON value: its types, and what it says of the parts. A nil shape says nothing, and whatever a
// declaration says in words that are not understood here is not in the shape. The shape of a recursive schema is a cycle.
type shape struct {
	types  types
	props  map[string]*shape // declared members of an object
	folded map[string]string // fold(declared name) → declared name
	twins  bool              // two declared names differ only in case
	rest   *shape            // members of an object that are not declared
	items  *shape            // elements of an array
	deep   bool              // members are declared here, or below elements or below members that are not declared
}

// types is a set of JSON types.
type types uint8

const (
	typeString types = 1 << iota
	typeInteger
	typeFraction // a number that is no integer
	typeBoolean
	typeObject
	typeArray
	typeNull
	typeNumber = typeInteger | typeFraction
	typeAny    = types(0xff)
)

var typeNames = [...]struct {
	name string
	t    types
}{{"string", typeString}, {"number", typeNumber}, {"integer", typeInteger}, {"boolean", typeBoolean}, {"object", typeObject}, {"array", typeArray}, {"null", typeNull}}

// String lists the types as a schema spells them.
func (t types) String() string {
	var out []string
	for _, n := range typeNames {
		if t&n.t == n.t {
			out = append(out, n.name)
			t &^= n.t
		}
	}
	return strings.Join(out, " or ")
}

// accept reports whether a value is of one of the types; raw matters where it is a number.
func (t types) accept(kind jsontext.Kind, raw []byte) bool {
	switch kind {
	case jsontext.KindString:
		return t&typeString != 0
	case jsontext.KindTrue, jsontext.KindFalse:
		return t&typeBoolean != 0
	case jsontext.KindNull:
		return t&typeNull != 0
	case jsontext.KindBeginObject:
		return t&typeObject != 0
	case jsontext.KindBeginArray:
		return t&typeArray != 0
	}
	return t&typeFraction != 0 || t&typeInteger != 0 && integral(raw)
}

func named(name string) types {
	for _, n := range typeNames {
		if n.name == name {
			return n.t
		}
	}
	return typeAny
}

// seal fills in what follows from props, rest and items.
func (s *shape) seal() {
	s.folded = make(map[string]string, len(s.props))
	for _, name := range slices.Sorted(maps.Keys(s.props)) {
		f := fold(name)
		if _, taken := s.folded[f]; taken {
			s.twins = true
			continue
		}
		s.folded[f] = name
	}
	s.deep = len(s.props) > 0
}

// near finds the declared name that an undeclared one equals but for case.
func (s *shape) near(name string) (as string, near bool) {
	if len(s.folded) == 0 {
		return "", false
	}
	as, near = s.folded[fold(name)]
	return as, near
}

// shapesOf gives the shapes of a catalog's tools and prompts, keeping those of the world before. A shape is read at the first call of its
// item, so that a server with costly schemas delays calls of its own alone.
func shapesOf(c *catalog.Catalog, before map[*catalog.Item]func() *shape) map[*catalog.Item]func() *shape {
	out := map[*catalog.Item]func() *shape{}
	for _, v := range c.Views() {
		for _, kind := range []catalog.Kind{catalog.Tool, catalog.Prompt} {
			for _, e := range v.Entries(kind, catalog.Legacy) {
				item := e.Item // the entry must not stay: it holds its view
				if _, done := out[item]; done {
					continue
				}
				s, ok := before[item]
				switch {
				case ok:
				case kind == catalog.Tool:
					s = sync.OnceValue(func() *shape { return shapeOf(item.InputSchema) })
				default:
					s = sync.OnceValue(func() *shape { return promptShape(item.Definition) })
				}
				out[item] = s
			}
		}
	}
	return out
}

// promptShape is the shape of a prompt's arguments: the protocol knows strings alone (2026-07-28, "Prompts").
func promptShape(definition []byte) *shape {
	text := &shape{types: typeString}
	s := &shape{types: typeObject, props: map[string]*shape{}, rest: text}
	if d := decode(definition); d != nil && d.root.members["arguments"] != nil {
		for _, a := range d.root.members["arguments"].elements {
			if name := a.members["name"]; name != nil && name.kind == jsontext.KindString {
				s.props[name.text] = text
			}
		}
	}
	s.seal()
	return s
}

// Bounds of the reading of one schema, which a server wrote. What lies beyond them is not in the shape; the shape is made from the top
// down, so that it is the far parts that are missing.
const (
	maxShapes = 4096    // values that are told apart
	maxSteps  = 1 << 17 // work: schemas and members looked at, as often as they are
	maxNested = 32      // schemas applied to the same value, one within the other
)

// shapeOf reads an inputSchema: type, properties, additionalProperties, items, prefixItems, allOf, anyOf, oneOf and references within the
// document. A schema that says nothing of the arguments has no shape.
func shapeOf(text []byte) *shape {
	d := decode(text)
	if d == nil {
		return nil
	}
	r := reading{document: d, steps: maxSteps, shapes: map[string]*shape{}}
	root := r.shape(r.one(d.root))
	for n := 0; n < len(r.queue); n++ { // breadth first
		s, h := r.queue[n].shape, r.layer(r.queue[n].rule, 0)
		s.types, s.rest, s.items = h.types, r.shape(h.rest), r.shape(h.items)
		if len(h.props) > 0 {
			s.props = make(map[string]*shape, len(h.props))
		}
		for _, name := range slices.Sorted(maps.Keys(h.props)) {
			s.props[name] = r.shape(h.props[name])
		}
		s.seal()
	}
	for changed := true; changed; {
		changed = false
		for _, q := range slices.Backward(r.queue) {
			s := q.shape
			if !s.deep && (s.rest != nil && s.rest.deep || s.items != nil && s.items.deep) {
				s.deep, changed = true, true
			}
		}
	}
	if len(root.props) == 0 && root.rest == nil {
		return nil
	}
	return root
}

// A document is a schema's text as a tree, so that references can be followed.
type document struct {
	root    *node
	nodes   int
	foreign bool // a part has an identity of its own, so that references need not start at the root
}

// A node is one JSON value of a document.
type node struct {
	id       int // unique in the document
	kind     jsontext.Kind
	text     string           // of a string
	members  map[string]*node // of an object
	elements []*node          // of an array
}

// decode reads a JSON object; nil where text is none.
func decode(text []byte) *document {
	if _, err := jsonrpc.Parse(text, jsonrpc.Limits{}); err != nil {
		return nil
	}
	d := new(document)
	var err error
	if d.root, err = d.read(jsontext.NewDecoder(bytes.NewBuffer(text))); err != nil {
		return nil
	}
	return d
}

func (d *document) read(in *jsontext.Decoder) (*node, error) {
	d.nodes++
	v := &node{id: d.nodes, kind: in.PeekKind()}
	t, err := in.ReadToken()
	if err != nil {
		return nil, err
	}
	switch v.kind {
	case jsontext.KindString:
		v.text = t.String()
	case jsontext.KindBeginArray:
		for in.PeekKind() != jsontext.KindEndArray {
			e, err := d.read(in)
			if err != nil {
				return nil, err
			}
			v.elements = append(v.elements, e)
		}
		_, err = in.ReadToken()
	case jsontext.KindBeginObject:
		v.members = map[string]*node{}
		for in.PeekKind() != jsontext.KindEndObject {
			t, err := in.ReadToken()
			if err != nil {
				return nil, err
			}
			name := t.String()
			m, err := d.read(in)
			if err != nil {
				return nil, err
			}
			if name == "$id" && m.kind == jsontext.KindString && in.StackDepth() > 1 {
				d.foreign = true
			}
			v.members[name] = m
		}
		_, err = in.ReadToken()
	}
	return v, err
}

// resolve finds what a $ref names: a JSON pointer (RFC 6901) from the root. Nil where it is anything else.
func (d *document) resolve(ref string) *node {
	pointer, local := strings.CutPrefix(ref, "#")
	pointer, err := url.PathUnescape(pointer)
	if !local || err != nil || d.foreign || pointer != "" && pointer[0] != '/' {
		return nil
	}
	v := d.root
	for token := range jsontext.Pointer(pointer).Tokens() {
		switch v.kind {
		case jsontext.KindBeginObject:
			v = v.members[token]
		case jsontext.KindBeginArray:
			n, err := strconv.Atoi(token)
			if err != nil || n < 0 || n >= len(v.elements) {
				return nil
			}
			v = v.elements[n]
		default:
			return nil
		}
		if v == nil {
			return nil
		}
	}
	return v
}

// A rule is what a value must fulfil: one schema, all of several rules, or one of several. The nil rule is fulfilled by anything.
type rule struct {
	op     byte    // 0, '&' or '|'
	schema *node   // op 0
	parts  []*rule // else
	key    string  // equal for equal rules
}

// reading makes shapes from a document.
type reading struct {
	*document
	steps  int // left
	shapes map[string]*shape
	queue  []struct {
		rule  *rule
		shape *shape
	}
}

// step takes n from what may be done; it reports whether that much was left.
func (r *reading) step(n int) bool {
	r.steps -= n
	return r.steps > 0
}

// shape is the shape of what fulfils a rule, to be filled in when its turn comes.
func (r *reading) shape(u *rule) *shape {
	if u == nil {
		return nil
	}
	if s, ok := r.shapes[u.key]; ok || len(r.queue) == maxShapes {
		return s
	}
	s := new(shape)
	r.shapes[u.key] = s
	r.queue = append(r.queue, struct {
		rule  *rule
		shape *shape
	}{u, s})
	return s
}

func (r *reading) one(schema *node) *rule {
	return &rule{schema: schema, key: strconv.Itoa(schema.id)}
}

// both is fulfilled by what fulfils a and b.
func (r *reading) both(a, b *rule) *rule {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return r.compose('&', a, b)
}

// either is fulfilled by what fulfils a or b. If one of them is nil, anything does, but the members that the other declares are declared.
func (r *reading) either(a, b *rule) *rule {
	if a == nil && b == nil {
		return nil
	}
	return r.compose('|', a, b)
}

func (r *reading) compose(op byte, rules ...*rule) *rule {
	parts := map[string]*rule{}
	size := 0
	for _, u := range rules {
		flat := []*rule{u}
		if u != nil && u.op == op {
			flat = u.parts
		}
		for _, p := range flat {
			key := ""
			if p != nil {
				key = p.key
			}
			parts[key] = p
			size += 1 + len(key)/8
		}
	}
	if !r.step(size) {
		return nil
	}
	keys := slices.Sorted(maps.Keys(parts))
	if len(keys) == 1 {
		return parts[keys[0]]
	}
	u := &rule{op: op, key: string(op) + "(" + strings.Join(keys, ",") + ")"}
	for _, k := range keys {
		u.parts = append(u.parts, parts[k])
	}
	return u
}

// A layer is the outermost part of a rule: what it says of the value itself, and the rules for what is below.
type layer struct {
	types       types
	props       map[string]*rule
	rest, items *rule
	free        bool // for one way to fulfil the rule, nothing is said of an object's members
}

// layer opens a rule; nested is how many rules were opened around it.
func (r *reading) layer(u *rule, nested int) layer {
	h := layer{types: typeAny, free: true}
	if u == nil || nested > maxNested || !r.step(1) {
		return h
	}
	if u.op == 0 {
		return r.open(u.schema, nested)
	}
	for n, p := range u.parts {
		switch part := r.layer(p, nested+1); {
		case n == 0:
			h = part
		case u.op == '&':
			r.meet(&h, part)
		default:
			r.join(&h, part)
		}
	}
	return h
}

// open is the layer of one schema.
func (r *reading) open(s *node, nested int) layer {
	h := layer{types: typeAny, props: map[string]*rule{}, free: true}
	if t := s.members["type"]; t != nil {
		h.types = typesOf(t)
	}
	if props := s.members["properties"]; props != nil && r.step(len(props.members)) {
		for name, p := range props.members {
			h.props[name] = r.one(p)
			h.free = false
		}
	}
	if rest := s.members["additionalProperties"]; rest != nil && rest.kind == jsontext.KindBeginObject && s.members["patternProperties"] == nil {
		h.rest, h.free = r.one(rest), false
	}
	h.items = r.elements(s)
	if ref := s.members["$ref"]; ref != nil && r.step(len(ref.text)/8) {
		if target := r.resolve(ref.text); target != nil {
			r.meet(&h, r.layer(r.one(target), nested+1))
		}
	}
	if all := s.members["allOf"]; all != nil {
		for _, e := range all.elements {
			r.meet(&h, r.layer(r.one(e), nested+1))
		}
	}
	for _, word := range []string{"anyOf", "oneOf"} {
		if some := s.members[word]; some != nil && len(some.elements) > 0 {
			one := r.layer(r.one(some.elements[0]), nested+1)
			for _, e := range some.elements[1:] {
				r.join(&one, r.layer(r.one(e), nested+1))
			}
			r.meet(&h, one)
		}
	}
	return h
}

func typesOf(t *node) types {
	if t.kind == jsontext.KindString {
		return named(t.text)
	}
	var set types
	for _, e := range t.elements {
		set |= named(e.text)
	}
	if set == 0 {
		return typeAny
	}
	return set
}

// elements is what the elements of an array fulfil. The places of a tuple are not told apart.
func (r *reading) elements(s *node) *rule {
	items, tuple := s.members["items"], s.members["prefixItems"]
	if items != nil && items.kind == jsontext.KindBeginArray { // until draft 2019-09
		items, tuple = s.members["additionalItems"], items
	}
	var all *rule
	if items != nil && items.kind == jsontext.KindBeginObject {
		all = r.one(items)
	}
	if tuple != nil {
		for _, e := range tuple.elements {
			all = r.either(all, r.one(e))
		}
	}
	return all
}

// meet narrows a to what fulfils b as well.
func (r *reading) meet(a *layer, b layer) {
	if !r.step(len(b.props)) {
		return
	}
	if a.props == nil {
		a.props = map[string]*rule{}
	}
	for name, p := range b.props {
		own, declared := a.props[name]
		if !declared {
			own = a.rest
		}
		a.props[name] = r.both(own, p)
	}
	if b.rest != nil && r.step(len(a.props)) {
		for name, p := range a.props {
			if _, done := b.props[name]; !done {
				a.props[name] = r.both(p, b.rest)
			}
		}
	}
	a.rest, a.items, a.free = r.both(a.rest, b.rest), r.both(a.items, b.items), a.free && b.free
	if a.types &= b.types; a.types == 0 {
		a.types = typeAny // no value fulfils it: it was not meant so
	}
}

// join widens a to what fulfils b instead. A member that one of them declares, and of which the other does not speak though it speaks of
// members, stays as declared.
func (r *reading) join(a *layer, b layer) {
	if !r.step(len(b.props)) {
		*a = layer{types: typeAny, free: true}
		return
	}
	switch {
	case b.types&typeObject == 0:
	case a.types&typeObject == 0:
		a.props, a.rest, a.free = b.props, b.rest, b.free
	default:
		if a.props == nil {
			a.props = map[string]*rule{}
		}
		for name, p := range b.props {
			own, declared := a.props[name]
			switch {
			case declared:
				a.props[name] = r.either(own, p)
			case a.rest != nil || a.free:
				a.props[name] = r.either(a.rest, p)
			default:
				a.props[name] = p
			}
		}
		if b.rest != nil || b.free {
			if !r.step(len(a.props)) {
				*a = layer{types: typeAny, free: true}
				return
			}
			for name, p := range a.props {
				if _, done := b.props[name]; !done {
					a.props[name] = r.either(p, b.rest)
				}
			}
		}
		a.rest, a.free = r.either(a.rest, b.rest), a.free || b.free
	}
	switch {
	case b.types&typeArray == 0:
	case a.types&typeArray == 0:
		a.items = b.items
	default:
		a.items = r.either(a.items, b.items)
	}
	a.types |= b.types
}

// fold maps every spelling that differs only in case to one, as strings.EqualFold would compare them.
func fold(s string) string { return strings.Map(foldRune, s) }

// appendFold appends the folded name.
func appendFold(dst, name []byte) []byte {
	for len(name) > 0 {
		c, n := utf8.DecodeRune(name)
		dst, name = utf8.AppendRune(dst, foldRune(c)), name[n:]
	}
	return dst
}

// foldRune is the small letter of ASCII among the spellings of a letter, else the least of them.
func foldRune(c rune) rune {
	if c >= utf8.RuneSelf {
		least := c
		for f := unicode.SimpleFold(c); f != c; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		c = least
	}
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
