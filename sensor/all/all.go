// Package all is the list of the sensors there are.
package all

import (
	"log/slog"
	"slices"

	"warren/bpf"
	"warren/sensor"
	"warren/sensor/file"
	"warren/sensor/flow"
	"warren/sensor/process"
	"warren/sensor/socket"
	"warren/sensor/syscall"
)

// Config are the settings of every sensor.
type Config struct {
	Process process.Config
	Socket  socket.Config
	File    file.Config
	Syscall syscall.Config
	Flow    flow.Config
}

// Hooks returns every hook that some sensor may attach, with its rungs.
func Hooks() []bpf.Hook {
	return slices.Concat(process.Hooks(), socket.Hooks(), file.Hooks(), syscall.Hooks())
}

// Sensors returns every sensor, those that others build on first. A new one
// adds its line here.
func Sensors(road *bpf.Road, cfg Config, log *slog.Logger) []sensor.Sensor {
	// Whose packets are that nobody answers is known only if sockets tell.
	cfg.Socket.Trying = cfg.Socket.Trying || cfg.Flow.Source != nil
	list := []sensor.Sensor{
		process.New(road, cfg.Process, log),
		socket.New(road, cfg.Socket, log),
		file.New(road, cfg.File, log),
		syscall.New(road, cfg.Syscall, log),
	}
	// Without a datapath there is nothing that it could ever do, and nobody is to
	// wait for it.
	if cfg.Flow.Source != nil {
		list = append(list, flow.New(road, cfg.Flow, log))
	}
	return list
}
