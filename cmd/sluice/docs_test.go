package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/sluicenet/sluice/internal/config"
)

// documents are the pages for users, by their paths.
func documents(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages := map[string]string{}
	for _, p := range append(paths, "../../README.md") {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		pages[p] = string(text)
	}
	return pages
}

// Code in a page: a fenced or indented block, or a span between backquotes.
var (
	fenced   = regexp.MustCompile("(?ms)^```[a-z]*$(.*?)^```$")
	indented = regexp.MustCompile(`(?m)^(?: {4}|\t).*$`)
	span     = regexp.MustCompile("`([^`\n]+)`")
	command  = regexp.MustCompile(`(?:^|[\s|(/])sluice((?: +[^\s|#;&)]+)+)`)
	making   = regexp.MustCompile(`(?:^|[\s|])make((?: [a-z0-9][a-z0-9-]*)+)`)
)

// code returns the lines of code of a page.
func code(page string) []string {
	var lines []string
	for _, m := range fenced.FindAllStringSubmatch(page, -1) {
		lines = append(lines, strings.Split(m[1], "\n")...)
	}
	page = fenced.ReplaceAllString(page, "")
	lines = append(lines, indented.FindAllString(page, -1)...)
	for _, m := range span.FindAllStringSubmatch(page, -1) {
		lines = append(lines, m[1])
	}
	return lines
}

// TestDocumentedCommands proves that the commands, flags and targets of make
// that the pages mention exist.
func TestDocumentedCommands(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for path, page := range documents(t) {
		for _, line := range code(page) {
			for _, m := range command.FindAllStringSubmatch(line, -1) {
				found++
				if complaint := complain(strings.Fields(m[1])); complaint != "" {
					t.Errorf("%s: %q: %s", path, strings.TrimSpace(line), complaint)
				}
			}
			if strings.HasPrefix(line, "--") && !anyHas(strings.Fields(line)[0]) {
				t.Errorf("%s: no command has the flag %s", path, line)
			}
			for _, m := range making.FindAllStringSubmatch(line, -1) {
				for target := range strings.FieldsSeq(m[1]) {
					if !regexp.MustCompile(`(?m)^` + target + `:`).Match(makefile) {
						t.Errorf("%s: the Makefile has no target %s", path, target)
					}
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("found only %d commands: does this test still read the pages?", found)
	}
	// The test itself must be able to fail.
	for _, args := range [][]string{{"serve"}, {"up", "--dns-lisen=x"}, {"get", "-Z"}} {
		if complain(args) == "" {
			t.Errorf("%q exists", args)
		}
	}
}

// complain says what is wrong with the arguments of the program, or "".
func complain(args []string) string {
	root := rootCommand()
	root.InitDefaultHelpCmd()
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err.Error()
	}
	if cmd == root && !strings.HasPrefix(args[0], "-") {
		return "no such command"
	}
	cmd.InitDefaultHelpFlag()
	for _, arg := range rest {
		if strings.HasPrefix(arg, "-") && !has(cmd, arg) {
			return "the command has no flag " + arg
		}
	}
	return ""
}

// has tells whether a command has a flag, given as one would: --name=value, -n.
func has(cmd *cobra.Command, arg string) bool {
	name, long := strings.CutPrefix(strings.SplitN(arg, "=", 2)[0], "--")
	if long {
		return cmd.Flags().Lookup(name) != nil || cmd.InheritedFlags().Lookup(name) != nil
	}
	return len(name) == 2 && cmd.Flags().ShorthandLookup(name[1:]) != nil
}

func anyHas(arg string) bool {
	return slices.ContainsFunc(rootCommand().Commands(), func(c *cobra.Command) bool {
		c.InitDefaultHelpFlag()
		return has(c, arg)
	})
}

// TestDocumentedConfigurations loads every Configuration of the pages and of
// the manifests that are installed, as strictly as a user's.
func TestDocumentedConfigurations(t *testing.T) {
	found := 0
	for path, page := range documents(t) {
		for _, m := range regexp.MustCompile("(?ms)^```yaml$(.*?)^```$").FindAllStringSubmatch(page, -1) {
			if strings.Contains(m[1], "kind: "+config.Kind+"\n") {
				found++
				loads(t, path, m[1])
			}
		}
	}
	installed, err := filepath.Glob("../../manifests/install/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range installed {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for doc := range strings.SplitSeq(string(text), "\n---\n") {
			var object struct {
				Kind string            `json:"kind"`
				Data map[string]string `json:"data"`
			}
			if err := yaml.Unmarshal([]byte(doc), &object); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if c, ok := object.Data["sluice.yaml"]; ok && object.Kind == "ConfigMap" {
				found++
				loads(t, path, c)
			}
		}
	}
	if found < 2 {
		t.Errorf("found only %d Configurations: does this test still read the pages?", found)
	}
}

func loads(t *testing.T, from, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	if err := c.Load(path); err != nil {
		t.Errorf("%s: %v", from, err)
	} else if err := c.Validate(); err != nil {
		t.Errorf("%s: %v", from, err)
	}
}

// TestInstalledCommands proves that the containers that are installed are
// started with commands and flags that exist.
func TestInstalledCommands(t *testing.T) {
	installed, err := filepath.Glob("../../manifests/install/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, path := range installed {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for doc := range strings.SplitSeq(string(text), "\n---\n") {
			var object struct {
				Spec struct {
					Template struct {
						Spec struct {
							InitContainers, Containers []struct {
								Command, Args []string
							}
						}
					}
				}
			}
			if err := yaml.Unmarshal([]byte(doc), &object); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			pod := object.Spec.Template.Spec
			for _, c := range append(pod.InitContainers, pod.Containers...) {
				args := append(c.Command, c.Args...)
				if len(args) > 0 && strings.HasSuffix(args[0], "/sluice") {
					args = args[1:]
				}
				found++
				if complaint := complain(args); complaint != "" {
					t.Errorf("%s: %q: %s", path, args, complaint)
				}
			}
		}
	}
	if found < 2 {
		t.Errorf("found only %d containers: does this test still read the manifests?", found)
	}
}

// TestCommandsExplainThemselves wants a help text of every command and flag.
func TestCommandsExplainThemselves(t *testing.T) {
	for _, c := range rootCommand().Commands() {
		if c.Short == "" {
			t.Errorf("sluice %s has no help", c.Name())
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("sluice %s: --%s has no help", c.Name(), f.Name)
			}
		})
	}
}
