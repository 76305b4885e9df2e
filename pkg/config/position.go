package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// index knows where every field of the configuration stands in the file. Its
// paths are those of protovalidate: servers[2].annotations["get"].title.
type index struct {
	nodes  map[string]*yaml.Node // the value at a path
	keys   map[string]*yaml.Node // the name or key at a path
	byPath map[string]protoreflect.FieldDescriptor
	types  map[string]protoreflect.MessageDescriptor
	fields map[position]found // by the place of the value, as protoyaml reports it
	broken map[string]bool    // paths that are reported already
	odd    map[string]bool    // paths of messages in which an unknown field stands
	faults Faults
}

type position struct{ line, column int }

type found struct {
	path  string
	field protoreflect.FieldDescriptor
	item  bool // one element of the list or map that field is
	node  *yaml.Node
}

// newIndex walks the tree along the message and notes what no decoder says
// well: unknown fields, fields that are there twice, aliases.
func newIndex(root *yaml.Node, message protoreflect.MessageDescriptor) *index {
	x := &index{
		nodes:  map[string]*yaml.Node{"": root},
		keys:   map[string]*yaml.Node{},
		byPath: map[string]protoreflect.FieldDescriptor{},
		types:  map[string]protoreflect.MessageDescriptor{},
		fields: map[position]found{},
		broken: map[string]bool{},
		odd:    map[string]bool{},
	}
	x.message("", root, message)
	return x
}

func (x *index) fault(node *yaml.Node, path, message, remedy string) {
	x.faults = append(x.faults, Fault{Line: node.Line, Column: node.Column, Path: path, Message: message, Remedy: remedy})
}

func (x *index) message(path string, node *yaml.Node, message protoreflect.MessageDescriptor) {
	x.types[path] = message
	if node.Kind != yaml.MappingNode || strings.HasPrefix(string(message.FullName()), "google.protobuf.") {
		return
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		name := key.Value
		field := message.Fields().ByTextName(name)
		if field == nil {
			field = message.Fields().ByJSONName(name)
		}
		switch {
		case key.Kind == yaml.ScalarNode && key.Tag == "!!merge":
			x.alias(key, path)
		case key.Kind != yaml.ScalarNode:
			x.fault(key, path, "a field's name is a text, not "+kind(key), "write `name: value`")
		case field == nil:
			x.unknown(path, key, message)
		default:
			at := join(path, string(field.Name()))
			if x.twice(at, key) {
				continue
			}
			x.nodes[at], x.keys[at] = value, key
			x.field(at, value, field)
		}
	}
}

func (x *index) field(path string, node *yaml.Node, field protoreflect.FieldDescriptor) {
	x.note(found{path, field, false, node})
	if x.alias(node, path) {
		return
	}
	switch {
	case field.IsList():
		for i, element := range node.Content {
			if node.Kind == yaml.SequenceNode {
				x.element(fmt.Sprintf("%s[%d]", path, i), element, field, field.Message())
			}
		}
	case field.IsMap():
		for i := 0; i+1 < len(node.Content) && node.Kind == yaml.MappingNode; i += 2 {
			key := node.Content[i]
			at := path + "[" + strconv.Quote(key.Value) + "]"
			if key.Tag == "!!merge" {
				x.alias(key, path)
			} else if !x.twice(at, key) {
				x.keys[at] = key
				x.element(at, node.Content[i+1], field, field.MapValue().Message())
			}
		}
	case field.Message() != nil:
		x.message(path, node, field.Message())
	}
}

func (x *index) element(path string, node *yaml.Node, field protoreflect.FieldDescriptor, message protoreflect.MessageDescriptor) {
	x.nodes[path] = node
	x.note(found{path, field, true, node})
	if !x.alias(node, path) && message != nil {
		x.message(path, node, message)
	}
}

// note keeps the outermost field that begins at a place: a list that is written
// where a text belongs begins where its first element does.
func (x *index) note(f found) {
	x.byPath[f.path] = f.field
	at := position{f.node.Line, f.node.Column}
	if _, taken := x.fields[at]; !taken {
		x.fields[at] = f
	}
}

func (x *index) alias(node *yaml.Node, path string) bool {
	if node.Kind != yaml.AliasNode && node.Tag != "!!merge" {
		return false
	}
	x.fault(node, path, "aliases and merges are not taken", "write the value out")
	x.broken[path] = true
	return true
}

func (x *index) twice(path string, key *yaml.Node) bool {
	first, ok := x.keys[path]
	if ok {
		x.fault(key, path, fmt.Sprintf("is there twice; the first is on line %d", first.Line), "keep one")
	}
	return ok
}

func (x *index) unknown(path string, key *yaml.Node, message protoreflect.MessageDescriptor) {
	names := make([]string, message.Fields().Len())
	for i := range names {
		names[i] = string(message.Fields().Get(i).Name())
	}
	remedy := "one of " + strings.Join(names, ", ")
	if near := nearest(key.Value, names); near != "" {
		remedy = fmt.Sprintf("did you mean %q?", near)
		x.broken[join(path, near)] = true // its absence follows from this
	}
	x.odd[path] = true
	x.fault(key, path, fmt.Sprintf("unknown field %s", shorten(key.Value)), remedy)
}

// at is the place of path, or of the nearest thing around it that is written.
// Of a map's entry that is its key.
func (x *index) at(path string) (line, column int) {
	for {
		if key, ok := x.keys[path]; ok && strings.HasSuffix(path, `"]`) {
			return key.Line, key.Column
		}
		if node, ok := x.nodes[path]; ok {
			return max(node.Line, 1), max(node.Column, 1)
		}
		path = parent(path)
	}
}

// isBroken says that path, or what holds it, could not be read.
func (x *index) isBroken(path string) bool {
	for ; path != ""; path = parent(path) {
		if x.broken[path] {
			return true
		}
	}
	return x.broken[""]
}

// parent is the path without its last element.
func parent(path string) string {
	if before, ok := strings.CutSuffix(path, `"]`); ok { // a map's key, in which anything may stand
		for i := strings.LastIndex(before, `["`); i >= 0; i = strings.LastIndex(before[:i], `["`) {
			if _, err := strconv.Unquote(before[i+1:] + `"`); err == nil {
				return before[:i]
			}
		}
	}
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// nearest is the name that word was probably meant to be, or nothing.
func nearest(word string, names []string) string {
	best, distance := "", 0
	if len(word) > 64 { // nobody mistypes that; and the distance costs the product of both lengths
		return ""
	}
	for _, name := range names {
		if len(word) >= 3 && strings.HasPrefix(name, word) {
			return name
		}
		d := levenshtein.ComputeDistance(strings.ToLower(word), name)
		if d <= max(1, len(name)/3) && (best == "" || d < distance) {
			best, distance = name, d
		}
	}
	return best
}

// kind says what is written at a node.
func kind(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a group of fields"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	default:
		if node.Tag == "!!null" {
			return "nothing"
		}
		return shorten(node.Value)
	}
}

// shorten quotes a text for a message.
func shorten(text string) string {
	if r := []rune(text); len(r) > 64 {
		text = string(r[:64]) + "…"
	}
	return strconv.Quote(text)
}
