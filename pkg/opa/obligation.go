package opa

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/mcpgw/mcpgw/pkg/policy"
)

// Bounds of what one ruling may demand.
const (
	maxChanges = 64
	maxPattern = 1024 // bytes of a pattern or a pointer
	maxLabels  = 32
	maxLabel   = 128 // bytes
)

// Redacted is what a redaction puts where it says nothing itself.
const Redacted = "[redacted]"

// oblige reads one kind of obligation of a ruling.
func (m *policyRuling) oblige(kind string, t *ast.Term) error {
	return each(t, func(t *ast.Term) error {
		if m.obligations == nil {
			m.obligations = &policy.Obligations{}
		}
		o := m.obligations
		if kind == "label" {
			s, ok := t.Value.(ast.String)
			if !ok || s == "" || len(s) > maxLabel || len(o.Label) == maxLabels {
				return fmt.Errorf("a label is a text of 1 to %d bytes, and a ruling gives at most %d", maxLabel, maxLabels)
			}
			o.Label = append(o.Label, string(s))
			return nil
		}
		into := &o.Redact
		if kind == "rewrite" {
			into = &o.Rewrite
		}
		if len(*into) == maxChanges {
			return fmt.Errorf("a ruling has more than %d changes of kind %s", maxChanges, kind)
		}
		c, err := readChange(kind, t)
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		*into = append(*into, c)
		return nil
	})
}

// readChange reads {"path": …} or {"pattern": …} with what to put there: "value" or "with" at a path, "with" for a pattern,
// "remove": true for nothing at all.
func readChange(kind string, t *ast.Term) (c policy.Change, err error) {
	object, ok := t.Value.(ast.Object)
	if !ok {
		return c, errors.New("a change is an object with path or pattern")
	}
	var value *ast.Term
	remove := false
	err = object.Iter(func(k, v *ast.Term) error {
		name, _ := k.Value.(ast.String)
		s, text := v.Value.(ast.String)
		switch {
		case name == "path" && text:
			c.Path = string(s)
		case name == "pattern" && text:
			c.Pattern = string(s)
		case name == "value" && value == nil, name == "with" && value == nil:
			value = v
		case name == "remove" && v.Equal(ast.InternedTerm(true)):
			remove = true
		default:
			return fmt.Errorf("%v: %v is not understood", k, v)
		}
		return nil
	})
	switch {
	case err != nil:
		return c, err
	case (c.Path == "") == (c.Pattern == ""):
		return c, errors.New("a change has either a path or a pattern, and neither is empty")
	case len(c.Path) > maxPattern, len(c.Pattern) > maxPattern:
		return c, fmt.Errorf("a path or pattern has more than %d bytes", maxPattern)
	case c.Path != "" && !pointer.MatchString(c.Path):
		return c, fmt.Errorf("%q is no JSON pointer", c.Path)
	case remove && (value != nil || c.Pattern != ""):
		return c, errors.New("remove stands alone with a path")
	case remove:
		return c, nil
	case value == nil && kind == "rewrite":
		return c, errors.New("a rewrite says what to put there")
	case value == nil:
		value = ast.StringTerm(Redacted)
	}
	if c.Pattern != "" {
		s, ok := value.Value.(ast.String)
		if !ok {
			return c, errors.New("a match is replaced by text")
		}
		if _, err := regexp.Compile(c.Pattern); err != nil {
			return c, err
		}
		c.With = string(s)
		return c, nil
	}
	v, err := ast.JSON(value.Value) // numbers keep their digits
	if err == nil {
		c.Value, err = json.Marshal(v)
	}
	return c, err
}

// pointer is RFC 6901's grammar.
var pointer = regexp.MustCompile(`^(/([^~/]|~[01])*)+$`)

// consistent makes sure that no two rewrites are about one place, and puts everything into a fixed order.
func (m *policyRuling) consistent() error {
	o := m.obligations
	if o == nil {
		return nil
	}
	order := func(a, b policy.Change) int {
		return strings.Compare(a.Path+"\x00"+a.Pattern, b.Path+"\x00"+b.Pattern)
	}
	slices.SortFunc(o.Rewrite, order)
	slices.SortFunc(o.Redact, order)
	slices.Sort(o.Label)
	o.Label = slices.Compact(o.Label)
	paths := map[string]bool{}
	for _, c := range o.Rewrite {
		paths[c.Path] = c.Path != ""
	}
	for i, c := range o.Rewrite {
		if i > 0 && c.Path != "" && c.Path == o.Rewrite[i-1].Path {
			return fmt.Errorf("two rules rewrite %s", c.Path)
		}
		for at := strings.LastIndexByte(c.Path, '/'); at > 0; at = strings.LastIndexByte(c.Path[:at], '/') {
			if paths[c.Path[:at]] {
				return fmt.Errorf("one rule rewrites %s and another %s, which is part of it", c.Path[:at], c.Path)
			}
		}
	}
	return nil
}
