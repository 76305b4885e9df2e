package opa

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// scratch is the working memory of one question.
type scratch struct {
	key  []byte
	name []byte
	src  bytes.Buffer
	dec  jsontext.Decoder
}

// keepScratch is the largest buffer that goes back to the pool.
const keepScratch = 64 << 10

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (w *scratch) release() {
	w.src = bytes.Buffer{}
	w.dec.Reset(&w.src) // a pooled decoder must not keep a question's bytes
	if cap(w.key) <= keepScratch && cap(w.name) <= keepScratch {
		scratches.Put(w)
	}
}

// read points the decoder at a text. Duplicate names are an error wherever the decoder reads tokens.
func (w *scratch) read(raw []byte, opts ...jsontext.Options) *jsontext.Decoder {
	w.src = *bytes.NewBuffer(raw) // the decoder reads a bytes.Buffer in place
	w.dec.Reset(&w.src, opts...)
	return &w.dec
}

// eachMember calls found with the members of an object that want names, in the order of the text. Both see bytes that are theirs
// only during the call.
func (w *scratch) eachMember(raw []byte, want func(name []byte) bool, found func(name []byte, value jsontext.Value)) error {
	d := w.read(raw, jsontext.AllowDuplicateNames(true)) // the reader refused them long before; the builder below does it again
	if d.PeekKind() != '{' {
		return errNoObject
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() == '"' {
		quoted, err := d.ReadValue()
		if err != nil {
			return err
		}
		name := []byte(quoted[1 : len(quoted)-1])
		if bytes.IndexByte(name, '\\') >= 0 {
			if name, err = jsontext.AppendUnquote(nil, quoted); err != nil {
				return err
			}
		}
		if !want(name) {
			if err := d.SkipValue(); err != nil {
				return err
			}
			continue
		}
		w.name = append(w.name[:0], name...) // the next read moves the decoder on
		value, err := d.ReadValue()
		if err != nil {
			return err
		}
		found(w.name, value)
	}
	_, err := d.ReadToken()
	return err
}

// object builds the selected members of an object, exactly: numbers keep their digits. No text at all is an empty object.
func (w *scratch) object(raw []byte, m members) (*ast.Term, error) {
	if raw == nil {
		return ast.InternedEmptyObject, nil
	}
	d := w.read(raw)
	if d.PeekKind() != '{' {
		return nil, errNoObject
	}
	t, err := build(d, m.has)
	if err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errNoObject
	}
	return t, nil
}

func everything(string) bool { return true }

// build makes a term of the next value. Of an object it takes the members that want names; below them everything.
func build(d *jsontext.Decoder, want func(string) bool) (*ast.Term, error) {
	tok, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch tok.Kind() {
	case 'n':
		return ast.NullTerm(), nil
	case 't', 'f':
		return ast.InternedTerm(tok.Bool()), nil
	case '"':
		return ast.StringTerm(tok.String()), nil
	case '0':
		n, err := number(tok.String())
		return &ast.Term{Value: n}, err
	case '[':
		var list []*ast.Term
		for d.PeekKind() != ']' {
			t, err := build(d, everything)
			if err != nil {
				return nil, err
			}
			list = append(list, t)
		}
		_, err := d.ReadToken()
		return ast.ArrayTerm(list...), err
	case '{':
		var pairs [][2]*ast.Term
		for d.PeekKind() != '}' {
			tok, err := d.ReadToken()
			if err != nil {
				return nil, err
			}
			name := tok.String()
			if !want(name) {
				if err := d.SkipValue(); err != nil {
					return nil, err
				}
				continue
			}
			t, err := build(d, everything)
			if err != nil {
				return nil, err
			}
			pairs = append(pairs, [2]*ast.Term{ast.StringTerm(name), t})
		}
		_, err := d.ReadToken()
		return ast.ObjectTerm(pairs...), err
	}
	return nil, fmt.Errorf("unexpected %v", tok.Kind())
}

// Numbers beyond these stall or crash arithmetic, and nothing can interrupt it. The reader of messages refuses them; annotations
// and claims come another way.
const (
	maxNumber   = 110 // bytes: 100 digits, sign, point, exponent
	maxExponent = 308
)

func number(s string) (ast.Number, error) {
	if len(s) > maxNumber {
		return "", errors.New("a number has too many digits")
	}
	for i := range len(s) {
		if s[i]|0x20 != 'e' {
			continue
		}
		if e, err := strconv.Atoi(s[i+1:]); err != nil || e > maxExponent || e < -maxExponent {
			return "", errors.New("a number has too large an exponent")
		}
	}
	return ast.NumberChecked(s)
}

func text(s string) *ast.Term {
	if s == "" {
		return ast.InternedEmptyString
	}
	return ast.StringTerm(s)
}

func texts(list []string) *ast.Term {
	if len(list) == 0 {
		return ast.InternedEmptyArray
	}
	terms := make([]*ast.Term, len(list))
	for i, s := range list {
		terms[i] = text(s)
	}
	return ast.ArrayTerm(terms...)
}

func pair(name string, t *ast.Term) [2]*ast.Term { return [2]*ast.Term{ast.InternedTerm(name), t} }

// input builds the question. Of arguments and claims only what the rules read is in it; all else is, always, so that no mistake in
// the walk over the rules could hide it from them. Text that is not known is empty and objects that were not sent are empty too,
// because Rego makes little difference between what is false and what is not there, but "not f(input.x)" does: it is undefined
// without an x, and a deny that says so would vanish. While listing there are no arguments, and templates have no URI.
func (s *selection) input(q *policy.Question, w *scratch, listing bool) (*ast.Term, error) {
	p, c := q.Subject, &q.Context
	claims, err := w.object(p.Claims, s.of[subjectClaims])
	if err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	prep := preparedOf(q.Item)
	resource, err := prep.resource(q.Item)
	if err != nil {
		return nil, err
	}
	if q.Item.Kind == catalog.Template && q.URI != "" && !listing || q.Item.Kind == catalog.Resource {
		u, _ := q.ConcreteURI()
		if listing {
			u = q.Item.Name
		}
		object := resource.Value.(ast.Object)
		pairs := make([][2]*ast.Term, 0, object.Len()+1)
		object.Foreach(func(k, v *ast.Term) { pairs = append(pairs, [2]*ast.Term{k, v}) })
		resource = ast.ObjectTerm(append(pairs, pair("uri", text(u)))...)
	}
	question := make([][2]*ast.Term, 0, 5)
	question = append(question,
		pair("subject", ast.ObjectTerm(
			pair("type", text(p.Type)), pair("id", text(p.ID)), pair("issuer", text(p.Issuer)), pair("client", text(p.Client)),
			pair("tenant", text(p.Tenant)), pair("roles", texts(p.Roles)), pair("scopes", texts(p.Scopes)), pair("claims", claims),
		)),
		pair("action", ast.ObjectTerm(pair("name", text(q.Action)))),
		pair("resource", resource),
		pair("context", ast.ObjectTerm(
			pair("endpoint", text(c.Endpoint)), pair("era", text(c.Era)), pair("revision", text(c.Revision)),
			pair("session", ast.ObjectTerm(pair("labels", texts(c.Labels)), pair("lost", ast.InternedTerm(c.LabelsLost)))), pair("client_address", text(c.ClientAddress)),
			pair("request_id", text(c.RequestID)), pair("round", ast.IntNumberTerm(c.Round)), pair("time", text(c.TimeText())),
		)),
	)
	if !listing {
		arguments, err := w.object(q.Arguments, s.of[arguments])
		if err != nil {
			return nil, fmt.Errorf("arguments: %w", err)
		}
		question = append(question, pair("arguments", arguments))
	}
	return ast.ObjectTerm(question...), nil
}

// prepared is what the engine keeps with an item: its term, and for the engine that asked last what a key holds of it.
// Terms are shared between evaluations, which only read them.
type prepared struct {
	once sync.Once
	term *ast.Term
	err  error

	key itemKey
}

func preparedOf(i *catalog.Item) *prepared {
	return i.Prepared(func() any { return new(prepared) }).(*prepared)
}

// resource is the item as a term, without a URI.
func (p *prepared) resource(i *catalog.Item) (*ast.Term, error) {
	p.once.Do(func() {
		w := scratches.Get().(*scratch)
		defer w.release()
		all := members{all: true}
		annotations, err := w.object(i.Annotations, all)
		if err != nil {
			p.err = fmt.Errorf("annotations of %s: %w", i.ID(), err)
			return
		}
		claimed, err := w.object(i.Claimed, all)
		if err != nil {
			p.err = fmt.Errorf("what is claimed of %s: %w", i.ID(), err)
			return
		}
		p.term = ast.ObjectTerm(
			pair("type", text(i.Kind.String())), pair("id", text(i.ID())), pair("server", text(i.Server)), pair("name", text(i.Name)),
			pair("title", text(i.Title)), pair("annotations", annotations), pair("claimed", claimed), pair("tags", texts(i.Tags)),
			pair("digest", text(i.Digest)), pair("drift", text(i.Drift)), pair("findings", texts(i.Findings)),
		)
	})
	return p.term, p.err
}
