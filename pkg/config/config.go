package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"buf.build/go/protoyaml"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// MaxBytes bounds a configuration file, and an mcpServers file.
const MaxBytes = 4 << 20

// Config is one configuration that passed every check. It is not changed after
// it was made.
type Config struct {
	// Proto is what the file says, every default written out, every path
	// absolute and every address in the form of [ParseAddress].
	Proto *configv1.Config
	// File is the file's name as it was given.
	File string
	// Version is the first 12 hexadecimal digits of the SHA-256 of Proto: equal
	// settings, equal version, however they are written. Files that the
	// configuration only names do not count.
	Version string
	// Warnings is what is allowed but ought to be said out loud, in the form of
	// a fault.
	Warnings Faults
	// Files is what the configuration was read from and what it names, absolute,
	// sorted, without repetition: whoever reloads on change watches these.
	Files []string
}

// Load reads and checks the configuration file at path. The error is [Faults]
// and holds all that is wrong at once.
func Load(path string) (*Config, error) {
	data, err := readBounded(path, MaxBytes)
	if err != nil {
		return nil, Faults{{File: path, Message: err.Error(), Remedy: "name a YAML file"}}
	}
	return Parse(path, data)
}

// LoadWith is Load with the servers of an mcpServers file (see
// [ImportMCPServers]) behind the configuration's own.
func LoadWith(path, mcpServers string) (*Config, error) {
	data, err := readBounded(path, MaxBytes)
	if err != nil {
		return nil, Faults{{File: path, Message: err.Error(), Remedy: "name a YAML file"}}
	}
	return ParseWith(path, data, mcpServers)
}

// ParseWith is Parse with the servers of an mcpServers file behind the configuration's own.
func ParseWith(path string, data []byte, mcpServers string) (*Config, error) {
	foreign, err := readBounded(mcpServers, MaxBytes)
	if err != nil {
		return nil, Faults{{File: mcpServers, Message: err.Error(), Remedy: "name a JSON file with mcpServers"}}
	}
	imported, warnings, err := ImportMCPServers(foreign)
	if err != nil {
		return nil, Faults{{File: mcpServers, Message: err.Error(), Remedy: `write {"mcpServers": {NAME: {"command": …} or {"url": …}}}`}}
	}
	c, err := parse(path, data, imported.Servers)
	if err != nil {
		return nil, err
	}
	absolute, err := filepath.Abs(mcpServers)
	if err != nil {
		return nil, Faults{{File: mcpServers, Message: err.Error(), Remedy: "give an absolute path"}}
	}
	c.Files = append(c.Files, absolute)
	for _, w := range warnings {
		c.Warnings = append(c.Warnings, Fault{File: mcpServers, Message: w, Remedy: "write the server into the configuration to say more of it"})
	}
	return c, nil
}

// Parse checks data as the content of the file called name; relative paths in
// it are taken from name's directory. Files that it names are looked at, and
// environment variables, but nothing is kept of them. The error is [Faults].
func Parse(name string, data []byte) (*Config, error) { return parse(name, data, nil) }

func parse(name string, data []byte, more []*configv1.Server) (*Config, error) {
	absolute, err := filepath.Abs(name)
	if err != nil {
		return nil, Faults{{File: name, Message: "its directory is unknown: " + err.Error(), Remedy: "give an absolute path"}}
	}
	c := &checker{file: name, dir: filepath.Dir(absolute), config: &configv1.Config{}, files: map[string]bool{absolute: true}}
	if fault, ok := c.read(data); !ok {
		fault.File = name
		return nil, Faults{fault}
	}
	c.decode(data)
	c.config.Servers = append(c.config.Servers, more...)
	setDefaults(c.config)
	c.validate()
	c.check()
	faults, warnings := c.report()
	if len(faults) > 0 {
		return nil, faults
	}
	return &Config{Proto: c.config, File: name, Version: version(c.config), Warnings: warnings, Files: c.watched()}, nil
}

// Defaulted returns a copy of c in which every default is written out, as the
// comments of the proto state them. It checks nothing.
func Defaulted(c *configv1.Config) *configv1.Config {
	c = proto.CloneOf(c)
	setDefaults(c)
	return c
}

// Marshal renders c as YAML that [Parse] reads, fields in the order of the
// proto. What is not set is left out.
func Marshal(c *configv1.Config) ([]byte, error) {
	return protoyaml.MarshalOptions{Indent: 2, UseProtoNames: true}.Marshal(c)
}

func version(c *configv1.Config) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil { // only text that is not UTF-8 can do that, and Parse refuses it
		panic(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

// readBounded reads a regular file of at most limit bytes. A pipe or a device
// is refused before it is opened, since that could wait for ever.
func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, errors.New("there is no such file")
	case err != nil:
		return nil, reason(err)
	case info.IsDir():
		return nil, errors.New("is a directory")
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, reason(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, reason(err)
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("is larger than %d bytes", limit)
	}
	return data, nil
}

// reason is a file error without the operation and the path, which every fault
// names already.
func reason(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// read makes the node tree of the one YAML document that data must be.
func (c *checker) read(data []byte) (Fault, bool) {
	bad := func(line, column int, message, remedy string) (Fault, bool) {
		return Fault{Line: line, Column: column, Message: message, Remedy: remedy}, false
	}
	if len(data) > MaxBytes {
		return bad(0, 0, fmt.Sprintf("is larger than %d bytes", MaxBytes), "split the gateway, or shorten the file")
	}
	for i, line := range bytes.SplitAfter(data, []byte("\n")) {
		if !utf8.Valid(line) {
			return bad(i+1, 1, "is not UTF-8 text", "save it as UTF-8")
		}
		// The YAML reader counts these as line ends and nobody's editor does, so
		// every position after one would be wrong.
		if bytes.ContainsAny(bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")), "\r\u0085\u2028\u2029") {
			return bad(i+1, 1, "holds a line break that is not a newline", "end lines with a newline only")
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	err := decoder.Decode(&document)
	switch {
	case errors.Is(err, io.EOF):
		return bad(1, 1, "is empty", "begin with `listeners:`; examples/quickstart holds a whole configuration")
	case err != nil:
		line, message := syntax(err)
		remedy := "write YAML: `name: value`, lists with `- `, equal indentation"
		if lines := strings.Split(string(data), "\n"); line > 0 && line <= len(lines) && strings.Contains(lines[line-1], "\t") {
			remedy = "indent with spaces; YAML takes no tabs"
		}
		return bad(line, 1, "is not YAML: "+message, remedy)
	}
	c.root = document.Content[0]
	if c.root.Kind == yaml.ScalarNode && c.root.Tag == "!!null" {
		return bad(1, 1, "is empty", "begin with `listeners:`; examples/quickstart holds a whole configuration")
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			line, message := syntax(err)
			return bad(line, 1, "is not YAML: "+message, "write YAML: `name: value`, lists with `- `, equal indentation")
		}
		return bad(second.Line, second.Column, "a second document begins here", "keep one document in the file")
	}
	return Fault{}, true
}

// parserMessage tells the messages whose line the YAML reader counts from 0.
var parserMessage = regexp.MustCompile(`^did not find expected (<document start>|node content|'-' indicator|key|',' or)`)

// syntax takes "yaml: line 3: what" apart. The reader gives no column.
func syntax(err error) (line int, message string) {
	message = strings.TrimPrefix(err.Error(), "yaml: ")
	var rest string
	if n, _ := fmt.Sscanf(message, "line %d:", &line); n == 1 {
		_, rest, _ = strings.Cut(message, ": ")
		if parserMessage.MatchString(rest) {
			line++
		}
		return line, rest
	}
	return 1, message
}
