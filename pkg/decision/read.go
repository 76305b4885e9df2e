package decision

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// LogFiles are the files at a path, or at what it links to: itself, or every regular file in and below a directory that is not hidden, in
// the order of names.
func LogFiles(path string) ([]string, error) {
	var out []string
	if i, err := os.Stat(path); err == nil && i.IsDir() {
		path += "/" // the walk follows no link, not even as its start
	}
	err := filepath.WalkDir(path, func(at string, d fs.DirEntry, err error) error {
		switch {
		case at == path && errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%s: there is no such file or directory", path)
		case err != nil:
			return err
		case at != path && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
		case at == path && !d.IsDir() || d.Type().IsRegular():
			out = append(out, at)
		}
		return nil
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("%s holds no files", path)
	}
	slices.Sort(out)
	return out, err
}

// ReadFile is Read of a file.
func (r *Replay) ReadFile(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read from
	return r.Read(ctx, path, f)
}

// Read takes every entry of a log: JSON lines, or OPA's arrays of entries, gzipped or not. The name is for faults. The error is one of
// reading; entries that cannot be read are in the report.
func (r *Replay) Read(ctx context.Context, name string, from io.Reader) error {
	in := bufio.NewReaderSize(from, 1<<20)
	if magic, _ := in.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(in)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		in = bufio.NewReaderSize(z, 1<<20)
	}
	defer r.flush()
	array, err := r.arrays(in)
	switch {
	case array:
		err = r.readArrays(ctx, name, in)
	case err == nil:
		err = r.readLines(ctx, name, in)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) { // a compressed file that is still written
		r.put(line{file: name, text: []byte("{"), last: true})
		return ctx.Err()
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return ctx.Err()
}

// arrays reports whether a log begins with an array that goes on after its first line.
func (r *Replay) arrays(in *bufio.Reader) (bool, error) {
	head, err := in.Peek(in.Size())
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	head = bytes.TrimLeft(head, " \t\r\n")
	if len(head) == 0 || head[0] != '[' {
		return false, nil
	}
	first, _, whole := bytes.Cut(head, []byte{'\n'})
	return !whole || !jsontext.Value(first).IsValid(), nil
}

func (r *Replay) readLines(ctx context.Context, name string, in *bufio.Reader) error {
	var long []byte // of a line that is longer than the buffer
	for n := 1; ctx.Err() == nil; {
		part, err := in.ReadSlice('\n')
		if len(long)+len(part) <= maxLine {
			long = append(long, part...)
		} else {
			long = append(long[:0], "{too long"...) // reported as what it then is
		}
		end := errors.Is(err, io.EOF)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !end:
			return err
		}
		if len(bytes.TrimSpace(long)) > 0 {
			r.put(line{file: name, n: n, text: long, last: end})
		}
		if end {
			break
		}
		long = nil
		n++
	}
	return ctx.Err()
}

// readArrays takes the elements of arrays, one at a time.
func (r *Replay) readArrays(ctx context.Context, name string, in io.Reader) error {
	b := &bounded{r: in, left: maxLine}
	d := jsontext.NewDecoder(b, jsontext.AllowDuplicateNames(true)) // each entry is read strictly later
	n := 0
	for ctx.Err() == nil {
		b.left = maxLine
		n++
		var err error
		switch k := d.PeekKind(); {
		case k == '[' && d.StackDepth() == 0, k == ']':
			_, err = d.ReadToken()
		default:
			var v jsontext.Value
			if v, err = d.ReadValue(); err == nil {
				r.put(line{file: name, n: n, text: bytes.Clone(v)})
			}
		}
		switch {
		case errors.Is(err, io.EOF) && d.StackDepth() == 0:
			return nil
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return io.ErrUnexpectedEOF
		case err != nil: // no telling where the next entry begins
			r.put(line{file: name, n: n, text: []byte("{ " + err.Error())})
			return nil //nolint:nilerr // it is in the report
		}
	}
	return ctx.Err()
}

// bounded refuses to read more than left, which its user fills up again.
type bounded struct {
	r    io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("an entry is too long")
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
