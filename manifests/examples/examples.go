// Package examples holds the example manifests, which work unchanged on a
// cluster and, with quickstart/standalone beside them, without one.
package examples

import (
	"embed"
	"fmt"
	"io/fs"
)

//go:embed quickstart
var files embed.FS

// Quickstart returns the manifests of the quick start, with the objects that
// stand for a cluster's in the folder "standalone".
func Quickstart() fs.FS {
	sub, err := fs.Sub(files, "quickstart")
	if err != nil {
		// The folder is part of the program.
		panic(fmt.Sprintf("examples: %v", err))
	}
	return sub
}
