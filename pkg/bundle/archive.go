package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/loader/filter"
)

// Bounds besides Options.MaxBytes.
const (
	maxEntries = 10_000 // files and directories of a bundle
	maxName    = 1024   // bytes of a name
	maxDepth   = 32     // directories in one another
	overhead   = 16 << 20
)

const signatures = ".signatures.json"

// Refusal says why what was had is not taken, as opposed to an error of having it.
type Refusal struct{ err error }

func (r *Refusal) Error() string { return r.err.Error() }

// Unwrap is what was found.
func (r *Refusal) Unwrap() error { return r.err }

func refusef(format string, args ...any) error { return &Refusal{fmt.Errorf(format, args...)} }

// entry is one file of a bundle. Its name has no slash in front.
type entry struct {
	name string
	text []byte
}

// unpack reads an archive within bounds. Without keep the texts are only counted.
func unpack(archive []byte, limit int64, keep bool) ([]entry, error) {
	if len(archive) < 2 || archive[0] != 0x1f || archive[1] != 0x8b {
		return nil, refusef("it is no .tar.gz archive: it begins with %q", archive[:min(len(archive), 16)])
	}
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, refusef("it is no .tar.gz archive: %w", err)
	}
	stream := &bounded{r: z, left: limit + overhead}
	t := tar.NewReader(stream)
	var all contents
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return all.list, nil
		}
		if err != nil {
			return nil, refusef("the archive is damaged: %w", stream.because(err))
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader:
			continue
		case tar.TypeDir, tar.TypeReg:
		default:
			return nil, refusef("%q is neither a file nor a directory; a bundle holds no links or devices", shorten(h.Name))
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeDir {
			err = all.count(0, limit)
		} else {
			err = all.add(name, h.Size, limit)
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		e := entry{name: name}
		if keep {
			e.text = make([]byte, h.Size)
			_, err = io.ReadFull(t, e.text)
		} else {
			_, err = io.Copy(io.Discard, t) //nolint:gosec // the stream is bounded
		}
		if err != nil {
			return nil, refusef("the archive is damaged at %s: %w", name, stream.because(err))
		}
		all.list = append(all.list, e)
	}
}

// bounded ends a stream that unpacks to more than it may.
type bounded struct {
	r    io.Reader
	left int64
	over bool
}

var errTooLarge = errors.New("it unpacks to more than max_bytes allows")

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		b.over = true
		return 0, errTooLarge
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// because prefers the bound to what readers made of it.
func (b *bounded) because(err error) error {
	if b.over {
		return errTooLarge
	}
	return err
}

// contents counts what a bundle holds.
type contents struct {
	list    []entry
	entries int
	bytes   int64
	names   map[string]bool
}

func (c *contents) count(size, limit int64) error {
	if c.entries++; c.entries > maxEntries {
		return refusef("it holds more than %d files and directories", maxEntries)
	}
	if size < 0 || size > limit-c.bytes {
		return refusef("it unpacks to more than max_bytes, which is %d", limit)
	}
	c.bytes += size
	return nil
}

// add counts a file, and refuses what kinds of bundles are not taken.
func (c *contents) add(name string, size, limit int64) error {
	if err := c.count(size, limit); err != nil {
		return err
	}
	if c.names == nil {
		c.names = map[string]bool{}
	}
	if c.names[name] {
		return refusef("it holds %s twice", name)
	}
	c.names[name] = true
	switch path.Base(name) {
	case "patch.json":
		return refusef("it is a delta bundle (it holds %s), which carries no signature and is never taken; let the server send snapshots", name)
	case bundle.WasmFile, bundle.PlanFile, bundle.PlanProtoFile:
		return refusef("it holds %s, a policy compiled for another engine; build the bundle without -t wasm and -t plan", name)
	}
	return nil
}

// cleanName is the name without the slash that OPA's writer puts in front. Anything that could mean another file is refused.
func cleanName(name string) (string, error) {
	n := strings.TrimPrefix(name, "/")
	n = strings.TrimPrefix(n, "./") // as tar writes it
	n = strings.TrimSuffix(n, "/")
	switch {
	case n == "" || n == ".":
		return ".", nil
	case len(n) > maxName:
		return "", refusef("it holds a name of %d bytes", len(n))
	case !utf8.ValidString(n) || strings.ContainsAny(n, "\\\x00") || path.Clean(n) != n || n == ".." || strings.HasPrefix(n, "../") || n[0] == '/':
		return "", refusef("it holds the name %q, which leads out of it or has more than one reading", shorten(name))
	case strings.Count(n, "/") >= maxDepth:
		return "", refusef("%s lies deeper than %d directories", shorten(n), maxDepth)
	}
	return n, nil
}

func shorten(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

// readDir reads a directory as a bundle, in the order of names. Links are followed inside it, for mounted volumes consist of them; a
// link that leads out is an error. Hidden files are left out but for a manifest and signatures at the top; tests too, unless a
// signature counts them.
func readDir(dir string, limit int64) ([]entry, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // only read from
	_, err = root.Stat(signatures)
	w := walker{root: root, limit: limit, tests: err == nil}
	if err := w.walk(".", 0); err != nil {
		return nil, err
	}
	return w.all.list, nil
}

type walker struct {
	root  *os.Root
	limit int64
	tests bool
	all   contents
}

func (w *walker) walk(dir string, depth int) error {
	if depth > maxDepth {
		return refusef("%s lies deeper than %d directories", dir, maxDepth)
	}
	list, err := fs.ReadDir(w.root.FS(), dir)
	if err != nil {
		return err
	}
	for _, d := range list {
		name := path.Join(dir, d.Name())
		if d.Name()[0] == '.' && (dir != "." || !slices.Contains([]string{bundle.ManifestExt, bundle.ManifestProtoExt, signatures}, d.Name())) {
			continue
		}
		if isTest(name) && !w.tests {
			continue
		}
		info, err := w.root.Stat(name)
		if err != nil {
			return err
		}
		switch {
		case info.IsDir():
			if err = w.all.count(0, w.limit); err == nil {
				err = w.walk(name, depth+1)
			}
		case info.Mode().IsRegular():
			err = w.read(name)
		default:
			err = refusef("%s is neither a file nor a directory", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) read(name string) error {
	f, err := w.root.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read from
	text, err := io.ReadAll(io.LimitReader(f, w.limit-w.all.bytes+1))
	if err != nil {
		return err
	}
	if err := w.all.add(name, int64(len(text)), w.limit); err != nil {
		return err
	}
	w.all.list = append(w.all.list, entry{name, text})
	return nil
}

func isTest(name string) bool { return strings.HasSuffix(name, "_test.rego") }

// loader hands entries to OPA's reader.
type loader struct{ left []entry }

var _ bundle.DirectoryLoader = (*loader)(nil)

func (l *loader) NextFile() (*bundle.Descriptor, error) {
	if len(l.left) == 0 {
		return nil, io.EOF
	}
	e := l.left[0]
	l.left = l.left[1:]
	return bundle.NewDescriptor("/"+e.name, "/"+e.name, bytes.NewBuffer(e.text)), nil
}

func (l *loader) WithFilter(filter.LoaderFilter) bundle.DirectoryLoader   { return l }
func (l *loader) WithPathFormat(bundle.PathFormat) bundle.DirectoryLoader { return l }
func (l *loader) WithSizeLimitBytes(int64) bundle.DirectoryLoader         { return l }
func (l *loader) WithFollowSymlinks(bool) bundle.DirectoryLoader          { return l }
