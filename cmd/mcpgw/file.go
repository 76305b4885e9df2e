package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// replaceFile writes a file anew, whole or not at all: whoever reads it sees the old text or the new. A link stays one.
func replaceFile(file string, text []byte) error {
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	name, err := writeBeside(file, text)
	if err != nil {
		return err
	}
	if err := os.Rename(name, file); err != nil {
		_ = os.Remove(name) // the first error is the one to tell
		return err
	}
	return nil
}

// writeBeside writes what shall take a file's place under a hidden name next to it, so that a rename is one step within one file
// system. It has the file's mode, or that of what everybody may read where there is no file yet.
func writeBeside(file string, text []byte) (name string, err error) {
	mode := fs.FileMode(0o644)
	switch info, err := os.Stat(file); {
	case err == nil:
		mode = info.Mode().Perm()
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+strings.TrimPrefix(filepath.Base(file), ".")+"-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		_ = os.Remove(f.Name()) // the first error is the one to tell
		return "", err
	}
	return f.Name(), nil
}
