package envoy

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// logFormat makes Envoy write one line a message: level, logger, message with
// its line ends escaped.
const logFormat = "%l\t%n\t%_"

// levels are slog's levels for Envoy's. What Envoy calls info is about itself
// (some 60 lines at each start), so it is for debugging here.
var levels = map[string]slog.Level{
	"trace":    slog.LevelDebug,
	"debug":    slog.LevelDebug,
	"info":     slog.LevelDebug,
	"warning":  slog.LevelWarn,
	"error":    slog.LevelError,
	"critical": slog.LevelError,
}

// tailLines is how many of the last lines are kept to explain an exit.
const tailLines = 12

// logWriter forwards Envoy's standard error to a logger, line by line.
type logWriter struct {
	log *slog.Logger

	// ending says that Envoy was told to end. That its streams then close is
	// no cause for warnings.
	ending atomic.Bool

	mu   sync.Mutex
	part []byte
	tail []string
}

// Write implements [io.Writer]. It never fails, so that Envoy never blocks or
// breaks on its log.
func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.part = append(w.part, p...)
	for {
		line, rest, ok := bytes.Cut(w.part, []byte("\n"))
		if !ok {
			break
		}
		w.line(string(line))
		w.part = rest
	}
	return len(p), nil
}

func (w *logWriter) line(line string) {
	if strings.TrimSpace(line) == "" {
		return
	}
	level, logger, msg := parseLine(line)
	if w.ending.Load() && level == slog.LevelWarn {
		level = slog.LevelDebug
	}
	w.log.LogAttrs(context.Background(), level, msg, slog.String("logger", logger))
	if level < slog.LevelWarn {
		return
	}
	if len(w.tail) == tailLines {
		w.tail = slices.Delete(w.tail, 0, 1)
	}
	w.tail = append(w.tail, msg)
}

// lastWords returns what Envoy complained about lately, for the error that
// says that it exited.
func (w *logWriter) lastWords() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.tail, "; ")
}

// parseLine takes a line of [logFormat] apart. Any other line, such as one of
// a crash, is a warning.
func parseLine(line string) (level slog.Level, logger, msg string) {
	name, rest, ok := strings.Cut(line, "\t")
	if l, known := levels[name]; ok && known {
		if logger, msg, ok = strings.Cut(rest, "\t"); ok {
			return l, logger, msg
		}
	}
	return slog.LevelWarn, "stderr", line
}
