package opa

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"gopkg.in/yaml.v3"

	"github.com/mcpgw/mcpgw/policies"
)

// File is one source file. Its name is what faults call it.
type File struct {
	Name string
	Text []byte
}

// maxFile bounds a source file, in bytes; maxRego the Rego of a directory, which takes about 200 times its size in memory to compile.
const (
	maxFile = 64 << 20
	maxRego = 8 << 20
)

// FilesBelow names the files of a directory, or of what a link to one leads to, and of those below it, that end in one of the suffixes, in
// the order of their names. Hidden files and directories are left out.
func FilesBelow(dir string, suffixes ...string) (names []string, err error) {
	switch i, err := os.Lstat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: there is no such directory", dir)
	case err == nil && i.Mode().IsRegular():
		return nil, fmt.Errorf("%s: is a file; name the directory that it lies in", dir)
	case err == nil && i.Mode()&fs.ModeSymlink != 0:
		dir += "/" // the walk follows no link, not even as its start
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path != dir && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
		case path != dir && slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(path, s) }):
			names = append(names, path) // a directory of such a name cannot be read, which is the fault to tell
		}
		return nil
	})
	return names, err
}

// ReadDir reads the Rego files that [FilesBelow] finds. Tests (*_test.rego) are in it, because [RunTests] wants them; [Load] passes them
// over.
func ReadDir(dir string) ([]File, error) {
	names, err := FilesBelow(dir, ".rego")
	if err != nil {
		return nil, err
	}
	if len(names) == 0 { // it would be a policy that refuses everything, and nobody means that by an empty mount
		return nil, fmt.Errorf("%s: holds no .rego file", dir)
	}
	size := int64(0)
	for _, name := range names {
		if i, err := os.Stat(name); err == nil { // what cannot be looked at cannot be read, which is told below
			size += i.Size()
		}
	}
	if size > maxRego {
		return nil, fmt.Errorf("%s: holds more than %d MiB of Rego; tables of values belong into data files", dir, maxRego>>20)
	}
	return ReadFiles(names...)
}

// ReadFiles reads files by name.
func ReadFiles(names ...string) ([]File, error) {
	var out []File
	for _, name := range names {
		if i, err := os.Stat(name); err == nil && !i.Mode().IsRegular() { // a pipe would be waited for
			return nil, fmt.Errorf("%s: is no regular file", name)
		}
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
		_ = f.Close() // only read from
		if err != nil {
			return nil, err
		}
		if len(text) > maxFile {
			return nil, fmt.Errorf("%s: larger than %d MiB", name, maxFile>>20)
		}
		out = append(out, File{Name: name, Text: text})
	}
	return out, nil
}

// shippedPrefix marks the files that the gateway ships, in faults and locations.
const shippedPrefix = "shipped/"

// shipped returns the embedded Rego, tests included.
func shipped() ([]File, error) {
	var out []File
	err := fs.WalkDir(policies.Files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".rego") {
			return err
		}
		text, err := policies.Files.ReadFile(path)
		out = append(out, File{Name: shippedPrefix + path, Text: text})
		return err
	})
	return out, err
}

// isTest tells what only tests are made of: they themselves, and the shipped package that helps to write them.
func isTest(name string) bool {
	return holdsTests(name) || strings.HasPrefix(name, forTests)
}

func holdsTests(name string) bool { return strings.HasSuffix(name, "_test.rego") }

// mergeData reads data files, JSON or YAML by their content, into one document. Objects with the same name are merged; the same
// value from two files is a fault.
func mergeData(files []File) (map[string]any, Faults) {
	all := map[string]any{}
	from := map[string]string{}
	var faults Faults
	for _, f := range files {
		one, fault := readData(f)
		if fault != nil {
			faults = append(faults, *fault)
			continue
		}
		if _, ok := one["mcpgw"]; ok {
			faults = append(faults, Fault{File: f.Name, Message: `the name "mcpgw" at the top belongs to rules, data may not stand there`})
			continue
		}
		faults = append(faults, merge(all, one, "data", f.Name, from)...)
	}
	return all, faults
}

func merge(into, more map[string]any, path, file string, from map[string]string) (faults Faults) {
	for name, value := range more {
		p := path + "." + name
		old, taken := into[name]
		a, aok := old.(map[string]any)
		b, bok := value.(map[string]any)
		switch {
		case !taken:
			into[name] = value
			from[p] = file
		case aok && bok:
			faults = append(faults, merge(a, b, p, file, from)...)
		default:
			f := Fault{File: file, Message: fmt.Sprintf("%s stands in two files", p), Remedy: "leave it in one of them"}
			for at := p; at != "data"; at = at[:strings.LastIndexByte(at, '.')] {
				if other, ok := from[at]; ok {
					f.Message = fmt.Sprintf("%s stands in %s as well", p, other)
					break
				}
			}
			faults = append(faults, f)
		}
	}
	return faults
}

// readData reads one file to an object whose numbers are json.Number, with all their digits.
func readData(f File) (map[string]any, *Fault) {
	var v any
	if text := bytes.TrimLeft(f.Text, " \t\r\n"); len(text) > 0 && text[0] == '{' && !isYAML(f.Name) {
		d := jsontext.NewDecoder(bytes.NewReader(f.Text))
		var err error
		if v, err = jsonValue(d); err == nil {
			if _, end := d.ReadToken(); !errors.Is(end, io.EOF) {
				err = errNoObject
			}
		}
		if err != nil {
			offset := d.InputOffset()
			if s := (*jsontext.SyntacticError)(nil); errors.As(err, &s) {
				offset = s.ByteOffset
			}
			line, col := position(f.Text, offset)
			return nil, &Fault{File: f.Name, Line: line, Col: col, Message: err.Error()}
		}
	} else {
		var node yaml.Node
		d := yaml.NewDecoder(bytes.NewReader(f.Text))
		switch err := d.Decode(&node); {
		case errors.Is(err, io.EOF):
			return nil, nil // an empty file
		case err != nil:
			return nil, &Fault{File: f.Name, Message: err.Error()}
		}
		if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
			return nil, &Fault{File: f.Name, Message: "more than one YAML document"}
		}
		y := yamlReader{left: maxNodes}
		var err error
		if v, err = y.value(&node); err != nil {
			return nil, &Fault{File: f.Name, Line: y.at.Line, Col: y.at.Column, Message: err.Error()}
		}
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, &Fault{File: f.Name, Line: 1, Col: 1, Message: "data must be one object", Remedy: `name it, as in "grants: …"`}
	}
	return object, nil
}

func isYAML(name string) bool {
	return strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")
}

func position(text []byte, offset int64) (line, col int) {
	before := text[:min(offset, int64(len(text)))]
	return bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}

func jsonValue(d *jsontext.Decoder) (any, error) {
	tok, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch tok.Kind() {
	case 't', 'f':
		return tok.Bool(), nil
	case '"':
		return tok.String(), nil
	case '0':
		n, err := number(tok.String())
		return json.Number(n), err
	case '[':
		list := []any{}
		for d.PeekKind() != ']' {
			v, err := jsonValue(d)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.ReadToken()
		return list, err
	case '{':
		object := map[string]any{}
		for d.PeekKind() != '}' {
			name, err := d.ReadToken()
			if err != nil {
				return nil, err
			}
			key := name.String()
			if object[key], err = jsonValue(d); err != nil {
				return nil, err
			}
		}
		_, err := d.ReadToken()
		return object, err
	}
	return nil, nil // null
}

// maxNodes bounds what the aliases of a YAML file can unfold to.
const maxNodes = 2_000_000

// yamlReader turns YAML into what JSON would have given.
type yamlReader struct {
	at   *yaml.Node // the last node begun: where an error is
	left int
}

func (y *yamlReader) value(n *yaml.Node) (any, error) {
	y.at = n
	if y.left--; y.left < 0 {
		return nil, errors.New("aliases unfold to too much")
	}
	switch n.Kind {
	case yaml.DocumentNode:
		return y.value(n.Content[0])
	case yaml.AliasNode:
		return y.value(n.Alias)
	case yaml.SequenceNode:
		list := []any{}
		for _, c := range n.Content {
			v, err := y.value(c)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case yaml.MappingNode:
		object := map[string]any{}
		for i := 0; i < len(n.Content); i += 2 {
			k := n.Content[i]
			y.at = k
			if k.Tag != "!!str" {
				return nil, fmt.Errorf("the key %s is no text; put it in quotes", k.Value)
			}
			if _, twice := object[k.Value]; twice {
				return nil, fmt.Errorf("the key %q stands there twice", k.Value)
			}
			v, err := y.value(n.Content[i+1])
			if err != nil {
				return nil, err
			}
			object[k.Value] = v
		}
		return object, nil
	}
	switch n.Tag {
	case "!!str":
		return n.Value, nil
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		err := n.Decode(&b)
		return b, err
	case "!!int", "!!float":
		if !jsontext.Value(n.Value).IsValid() {
			return nil, fmt.Errorf("%s is no number as JSON writes it", n.Value)
		}
		num, err := number(n.Value)
		return json.Number(num), err
	}
	return nil, fmt.Errorf("a value of type %s has no JSON form; put it in quotes", n.Tag)
}

// Document merges data files to what policies see as data, numbers with all their digits. The error is [Faults].
func Document(files []File) (map[string]any, error) {
	document, faults := mergeData(files)
	if len(faults) > 0 {
		faults.sort()
		return nil, faults
	}
	return document, nil
}
