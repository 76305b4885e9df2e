package config

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"buf.build/go/protovalidate"
	"buf.build/go/protoyaml"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// decode fills the proto from the file as far as that goes.
func (c *checker) decode(data []byte) {
	c.index = newIndex(c.root, c.config.ProtoReflect().Descriptor())
	c.faults = append(c.faults, c.index.faults...)
	err := protoyaml.UnmarshalOptions{AllowPartial: true}.Unmarshal(data, c.config)
	if err == nil {
		return
	}
	errs := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs = joined.Unwrap()
	}
	for _, err := range errs {
		var line, column int
		if n, _ := fmt.Sscanf(err.Error(), ":%d:%d", &line, &column); n != 2 {
			c.faults = append(c.faults, Fault{Message: err.Error()})
			continue
		}
		text := err.Error()
		if cause := errors.Unwrap(err); cause != nil {
			text = cause.Error()
		}
		c.decodeFault(position{line, column}, text)
	}
	if len(c.faults) == 0 { // nothing that protoyaml refuses may pass for read
		c.faults = append(c.faults, Fault{Line: 1, Column: 1, Message: err.Error()})
	}
}

// decodeFault says in the configuration's own words what protoyaml says in the
// words of protobuf.
func (c *checker) decodeFault(at position, text string) {
	f, known := c.index.fields[at]
	switch {
	case strings.HasPrefix(text, "unknown field"): // the index has said it better
	case known && f.node.Line == at.line && strings.Contains(text, "already set for oneof"):
		oneof := f.field.ContainingOneof()
		c.index.broken[f.path] = true
		c.add(at, f.path, "stands beside another field of which only one may be set", "keep one of "+choices(oneof))
	case known:
		if c.index.isBroken(f.path) {
			return
		}
		c.index.broken[f.path] = true
		c.add(at, f.path, fmt.Sprintf("is %s", kind(f.node)), "write "+wanted(f.field, f.item))
	case at == position{c.root.Line, c.root.Column}:
		c.index.broken[""] = true
		c.add(at, "", fmt.Sprintf("is %s", kind(c.root)), "write fields, beginning with `listeners:`")
	case len(c.index.faults) > 0: // inside something that is reported
	default:
		c.add(at, "", text, "")
	}
}

func (c *checker) add(at position, path, message, remedy string) {
	c.faults = append(c.faults, Fault{Line: at.line, Column: at.column, Path: path, Message: message, Remedy: remedy})
}

func choices(oneof protoreflect.OneofDescriptor) string {
	names := make([]string, oneof.Fields().Len())
	for i := range names {
		names[i] = string(oneof.Fields().Get(i).Name())
	}
	return strings.Join(names, ", ")
}

// wanted says what may be written for a field, or for one element of it.
func wanted(field protoreflect.FieldDescriptor, item bool) string {
	switch {
	case field.IsList() && !item:
		return "a list, one `- ` an entry"
	case field.IsMap() && !item:
		return "a group of `name: value` lines"
	case field.IsMap():
		field = field.MapValue()
	}
	if strings.HasSuffix(string(field.Name()), "_bytes") {
		return "a size in bytes, such as 1048576 or 1Mi"
	}
	switch field.Kind() {
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.Uint32Kind:
		return fmt.Sprintf("a whole number from 0 to %d", uint32(math.MaxUint32))
	case protoreflect.Uint64Kind:
		return "a whole number, 0 or more"
	case protoreflect.DoubleKind:
		return "a number"
	case protoreflect.MessageKind:
		if field.Message().FullName() == "google.protobuf.Duration" {
			return "a time with its unit, such as 30s, 5m or 1h"
		}
		names := make([]string, 0, field.Message().Fields().Len())
		for i := range field.Message().Fields().Len() {
			names = append(names, string(field.Message().Fields().Get(i).Name()))
		}
		return "fields, of " + strings.Join(names, ", ")
	default:
		return "a text"
	}
}

// hints say for a field what its rule says less well. By the field's name in
// the proto.
var hints = map[protoreflect.FullName]string{
	"mcpgw.config.v1.Config.listeners":               "add one, such as `listeners: [{address: 127.0.0.1:8080}]`",
	"mcpgw.config.v1.Config.policy":                  "add `policy: {directory: policies}`, the directory of the .rego files",
	"mcpgw.config.v1.Listener.name":                  nameHint,
	"mcpgw.config.v1.Listener.address":               "write `address: 127.0.0.1:8080` or `address: unix:PATH`",
	"mcpgw.config.v1.Server.name":                    nameHint,
	"mcpgw.config.v1.Endpoint.name":                  nameHint,
	"mcpgw.config.v1.Endpoint.path":                  "write a path such as `path: /mcp`",
	"mcpgw.config.v1.Endpoint.prefixes":              "a prefix has at most 64 letters, digits, dots, hyphens and underscores",
	"mcpgw.config.v1.APIKey.roles":                   roleHint,
	"mcpgw.config.v1.Anonymous.roles":                roleHint,
	"mcpgw.config.v1.Server.tags":                    "a tag has 1 to 128 bytes",
	"mcpgw.config.v1.APIKey.digest":                  "`mcpgw key new` prints one: sha256: and 64 hexadecimal digits in lower case",
	"mcpgw.config.v1.JWTIssuer.audiences":            "name the audience that tokens for this gateway carry, such as `audiences: [https://mcp.example.org]`",
	"mcpgw.config.v1.HTTPTransport.url":              "write `url: https://HOST/PATH`",
	"mcpgw.config.v1.Policy.entry_point":             "name a rule by its package, such as mcpgw.main.ruling",
	"mcpgw.config.v1.Credential.from":                "say where the secret lies: `from: {env: NAME}` or `from: {file: PATH}`",
	"mcpgw.config.v1.Value.env":                      variableHint,
	"mcpgw.config.v1.SecretSource.env":               variableHint,
	"mcpgw.config.v1.StdioTransport.env":             variableHint,
	"mcpgw.config.v1.StdioTransport.env_passthrough": variableHint,
}

const (
	roleHint     = "a role has 1 to 128 bytes"
	nameHint     = "a name has 1 to 32 lower-case letters, digits and hyphens, and begins with a letter or digit"
	variableHint = "a variable's name has letters, digits and underscores, and begins with no digit"
)

// validate adds what the proto's own rules say against the configuration.
func (c *checker) validate() {
	err := protovalidate.Validate(c.config)
	var violations *protovalidate.ValidationError
	switch {
	case err == nil:
	case errors.As(err, &violations):
		for _, v := range violations.Violations {
			c.violation(v)
		}
	default: // a rule of ours that does not compile: refuse rather than go unchecked
		c.faults = append(c.faults, Fault{Line: 1, Column: 1, Message: "cannot be checked: " + err.Error()})
	}
}

func (c *checker) violation(v *protovalidate.Violation) {
	path := protovalidate.FieldPathString(v.Proto.GetField())
	field := v.FieldDescriptor
	if field == nil { // a rule about one element has none
		field = c.index.byPath[path]
	}
	if field == nil {
		c.oneofViolation(path, v)
		return
	}
	value, scalar := valueText(v)
	message, remedy := "is "+value, hints[field.FullName()]
	switch id := v.Proto.GetRuleId(); {
	case id == "required":
		message = "is missing"
		if remedy == "" {
			remedy = fmt.Sprintf("add `%s:` with %s", field.Name(), wanted(field, false))
		}
	case id == "repeated.min_items":
		message = "has no entry"
	case id == "repeated.unique":
		message, remedy = "holds an entry twice", "keep one"
	case id == "string.in":
		remedy = "write " + oneOf(field)
	case v.Proto.GetForKey():
		message = "its name is " + value
	}
	if value == "" && message == "is " {
		message = "is not right"
	}
	if remedy == "" {
		remedy = v.Proto.GetMessage()
	}
	c.fault(path, message, remedy)
	if scalar {
		c.index.broken[path] = true // one fault is enough
	}
}

// oneofViolation reports a oneof of which nothing is set. Its path ends in the
// oneof's own name, which nobody writes.
func (c *checker) oneofViolation(path string, v *protovalidate.Violation) {
	around := parent(path)
	message := c.index.types[around]
	if message == nil {
		c.fault(path, v.Proto.GetMessage(), "")
		return
	}
	oneof := message.Oneofs().ByName(protoreflect.Name(path[strings.LastIndexByte(path, '.')+1:]))
	if oneof == nil {
		c.fault(path, v.Proto.GetMessage(), "")
		return
	}
	for i := range oneof.Fields().Len() {
		if c.index.isBroken(join(around, string(oneof.Fields().Get(i).Name()))) {
			return
		}
	}
	if !c.index.odd[around] { // else the unknown field is what was meant
		c.fault(around, "says none of "+choices(oneof), "write one of them")
	}
}

// valueText is the value at fault, and whether it is one that has no parts.
func valueText(v *protovalidate.Violation) (text string, scalar bool) {
	if !v.FieldValue.IsValid() {
		return "", false
	}
	switch x := v.FieldValue.Interface().(type) {
	case string:
		return shorten(x), true
	case protoreflect.Message:
		if d, ok := x.Interface().(*durationpb.Duration); ok {
			return d.AsDuration().String(), true
		}
	case bool, uint32, uint64, float64:
		return fmt.Sprint(x), true
	}
	return "", false
}

// oneOf lists the words that a rule allows.
func oneOf(field protoreflect.FieldDescriptor) string {
	var words []string
	if rules, err := protovalidate.ResolveFieldRules(field); err == nil {
		for _, word := range append(rules.GetString().GetIn(), rules.GetRepeated().GetItems().GetString().GetIn()...) {
			if word != "" {
				words = append(words, word)
			}
		}
	}
	if last := len(words) - 1; last > 0 {
		return strings.Join(words[:last], ", ") + " or " + words[last]
	}
	return strings.Join(words, "")
}
