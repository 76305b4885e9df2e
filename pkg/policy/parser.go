package policy

import (
	"fmt"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// Parser is ParseQuestion for many questions: those that say the same of a subject or of an item, byte for byte, share it, and with it
// what an engine has prepared of it. The zero value is ready. It is not safe for concurrent use.
type Parser struct {
	subjects map[string]*identity.Principal
	items    map[string]resource
	buffer   []byte
}

type resource struct {
	item *catalog.Item
	uri  string
}

// maxShared bounds what a parser remembers of each kind; then it begins anew.
const maxShared = 10_000

// Parse reads what AppendJSON wrote, as ParseQuestion does. The question aliases text.
func (p *Parser) Parse(text []byte) (*Question, error) {
	o, err := jsonrpc.Parse(text, jsonrpc.Limits{Depth: 256})
	if err != nil {
		return nil, fmt.Errorf("the question cannot be read: %w", err)
	}
	q := &Question{}
	for _, m := range o.Members {
		switch m.Name {
		case "subject":
			if q.Subject = p.subjects[string(m.Value.Raw)]; q.Subject != nil {
				continue
			}
			one, err := p.alone(m)
			if err != nil {
				return nil, err
			}
			if p.subjects == nil || len(p.subjects) >= maxShared {
				p.subjects = map[string]*identity.Principal{}
			}
			q.Subject = one.Subject
			p.subjects[string(m.Value.Raw)] = one.Subject
		case "resource":
			if known, ok := p.items[string(m.Value.Raw)]; ok {
				q.Item, q.URI = known.item, known.uri
				continue
			}
			one, err := p.alone(m)
			if err != nil {
				return nil, err
			}
			if p.items == nil || len(p.items) >= maxShared {
				p.items = map[string]resource{}
			}
			q.Item, q.URI = one.Item, one.URI
			p.items[string(m.Value.Raw)] = resource{one.Item, one.URI}
		case "arguments":
			if m.Value.Kind() != '{' {
				return nil, fmt.Errorf("the question's arguments are no object")
			}
			q.Arguments = m.Value.Raw
		default:
			one, err := p.alone(m)
			if err != nil {
				return nil, err
			}
			switch m.Name {
			case "action":
				q.Action = one.Action
			case "context":
				q.Context = one.Context
			}
		}
	}
	if q.Subject == nil {
		q.Subject = &identity.Principal{}
	}
	if q.Item == nil {
		q.Item = &catalog.Item{}
	}
	return q, nil
}

// alone reads one member of a question.
func (p *Parser) alone(m jsonrpc.Member) (*Question, error) {
	p.buffer = append(append(append(p.buffer[:0], '{'), jsonrpc.AppendString(nil, m.Name)...), ':')
	p.buffer = append(append(p.buffer, m.Value.Raw...), '}')
	return ParseQuestion(p.buffer)
}
