# frozen_string_literal: true

# One connection to the worker: frames of a length (4 bytes, of what follows), a type (1 byte) and a body.

require "io/wait"
require "json"
require "socket"

module Queueville
  PROTOCOL = 1
  MAX_FRAME = 1 << 30 # bytes; Redis itself ends at half of that
  CHUNK = 1 << 16

  # The worker has closed the connection or is gone.
  class Gone < StandardError; end

  class Line
    def initialize(kind, details = {})
      @io = UNIXSocket.new(ENV.fetch("QUEUEVILLE_SOCKET"))
      @io.sync = true
      @in = String.new(encoding: Encoding::BINARY)
      hello = { "v" => PROTOCOL, "kind" => kind, "token" => ENV.fetch("QUEUEVILLE_TOKEN"), "pid" => Process.pid }
      send_frame("H", JSON.generate(hello.merge(details)))
    rescue SystemCallError => e
      raise Gone, e.message
    end

    attr_reader :io

    def send_frame(type, body = "")
      body = body.b
      @io.write([body.bytesize + 1].pack("N") << type << body)
    rescue SystemCallError, IOError => e
      raise Gone, e.message
    end

    # [type, body] of the next frame; nil after +seconds+ without one.
    def receive(seconds)
      until (frame = cut)
        return nil unless @io.wait_readable(seconds)

        chunk = @io.read_nonblock(CHUNK, exception: false)
        raise Gone, "end of file" if chunk.nil?

        @in << chunk unless chunk == :wait_readable
      end
      frame
    rescue SystemCallError, IOError => e
      raise Gone, e.message
    end

    def close
      @io.close
    rescue SystemCallError, IOError
      nil # it is closed either way
    end

    private

    def cut
      return nil if @in.bytesize < 5

      size = @in.unpack1("N")
      raise Gone, "a frame of #{size} bytes" if size < 1 || size > MAX_FRAME
      return nil if @in.bytesize < size + 4

      type = @in[4]
      body = @in.byteslice(5, size - 1)
      @in = @in.bytesize == size + 4 ? @in.clear : @in.byteslice((size + 4)..)
      [type, body]
    end
  end
end
