package scenario

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

//go:embed files/*.yaml
var files embed.FS

// ErrUnknown says that no embedded scenario has the name.
var ErrUnknown = errors.New("unknown scenario")

// Names are the embedded scenarios.
func Names() []string {
	entries, err := fs.ReadDir(files, "files")
	if err != nil {
		return nil // embedded: cannot be
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	slices.Sort(names)
	return names
}

// Source is the text of an embedded scenario; ErrUnknown if there is none of that name.
func Source(name string) ([]byte, error) {
	text, err := files.ReadFile("files/" + name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("%w %q%s", ErrUnknown, name, suggest(name, Names()))
	}
	return text, nil
}
