# frozen_string_literal: true

# The classes of a load test: each job asks the conductor what it costs, and then really costs that: processor time under Ruby's lock and outside
# of it, statements, waiting for others, a signed delivery over TLS. What Ruby, the libraries and these lines themselves use of the processor
# is part of what the job has to use, so a job of 9 ms uses 9 ms.
require "base64"
require "digest"
require "net/http"
require "socket"
require "time"
require "uri"
require "zlib"

module Loadtest
  CLASSES = JSON.parse(File.read(Rails.root.join("config/loadtest.json").to_s)).freeze
  SOCKET = ENV.fetch("QUEUEVILLE_LOADTEST_SOCKET")
  AUTHORITY = OpenSSL::X509::Store.new.add_file(ENV.fetch("QUEUEVILLE_LOADTEST_CA"))

  class Failed < StandardError; end

  # One connection to the conductor for each thread; lines there and back.
  class Conductor
    def self.mine
      kept = Thread.current.thread_variable_get(:loadtest_conductor)
      return kept if kept&.pid == Process.pid # a forked child makes its own

      new.tap { |c| Thread.current.thread_variable_set(:loadtest_conductor, c) }
    end

    attr_reader :pid

    def initialize
      @pid = Process.pid
      @socket = UNIXSocket.new(SOCKET)
    end

    def say(line)
      @socket.write(line, "\n")
    end

    def ask(line)
      say(line)
      hear
    end

    def hear
      raise Failed, "the conductor is silent" unless @socket.wait_readable(60)

      @socket.gets&.chomp or raise Failed, "the conductor has gone"
    end

    def read(bytes)
      @socket.read(bytes)
    end
  end

  # Keeps what the middleware knows of a job and perform does not.
  class Middleware
    def call(_instance, job, _queue)
      Thread.current.thread_variable_set(:loadtest_job, job)
      yield
    end
  end

  # Processor time of this thread, in milliseconds.
  class Meter
    CLOCK = Process::CLOCK_THREAD_CPUTIME_ID

    def initialize
      @beside = 0.0 # spent on what does not count: native work
      @start = now
    end

    def now
      Process.clock_gettime(CLOCK, :float_millisecond)
    end

    def used
      now - @start - @beside
    end

    # Computes until the thread has used that much since the beginning.
    def up_to(milliseconds)
      limit = @start + @beside + milliseconds
      x = 0
      200.times { x = ((x * 31) + 7) & 0xffff } while now < limit
      x
    end

    # Computes outside of Ruby's lock, as ffmpeg and libvips do.
    NOISE = Random.new(1).bytes(128 << 10).freeze

    def native(milliseconds)
      begun = now
      Zlib::Deflate.deflate(NOISE, 6) while now - begun < milliseconds
      @beside += now - begun
    end
  end

  module Database
    def self.query(iterations)
      ActiveRecord::Base.connection.raw_connection.exec_params("SELECT loadtest_work($1)", [iterations])
    end

    def self.work(queries, iterations)
      return if queries < 1

      each = iterations / queries
      queries.times { query(each) }
    end

    def self.account(id)
      ActiveRecord::Base.connection.raw_connection.exec_params("SELECT * FROM accounts WHERE id = $1 LIMIT 1", [id]).first
    end
  end

  # Kept connections, as Mastodon's pool: a thread that has one has it alone, at most 512 are idle.
  module Connections
    LOCK = Mutex.new
    IDLE = [] # [origin, client], the oldest first

    def self.with(uri, address)
      origin = uri.origin
      client = LOCK.synchronize { (i = IDLE.rindex { |o, _| o == origin }) && IDLE.delete_at(i)[1] }
      used = !client.nil?
      client ||= connect(uri, address)
      answer = begin
        yield client
      rescue EOFError, Errno::ECONNRESET, Errno::EPIPE, IOError
        raise unless used

        close(client) # the other side had closed it
        used = false
        client = connect(uri, address)
        retry
      end
      oldest = LOCK.synchronize do
        IDLE.push([origin, client])
        IDLE.shift[1] if IDLE.size > 512
      end
      close(oldest) if oldest
      answer
    rescue StandardError
      close(client) if client
      raise
    end

    def self.connect(uri, address)
      http = Net::HTTP.new(uri.host, uri.port, nil)
      http.ipaddr = address
      http.use_ssl = true
      http.cert_store = AUTHORITY
      http.open_timeout = 5
      http.read_timeout = http.write_timeout = 10
      http.keep_alive_timeout = 60
      http.max_retries = 0
      http.start
    end

    def self.close(client)
      client.finish
    rescue StandardError
      nil
    end
  end

  # Mastodon's breaker per inbox: ten failures in a row, and for a minute nothing is tried.
  module Breaker
    def self.around(name)
      key = "loadtest:light:#{name}"
      raise Failed, "#{name} is not tried" if RedisCall.base("GET", key) == "red"

      result = begin
        yield
      rescue StandardError
        RedisCall.base("SET", key, "red", "EX", 60) if RedisCall.base("INCR", "#{key}:failures").to_i >= 10
        raise
      end
      RedisCall.base("DEL", "#{key}:failures")
      result
    end
  end

  module Delivery
    AGENT = "Mastodon/4.3.0 (+https://local.test/) loadtest"
    SIGNED = %w[host date digest content-type (request-target)].freeze

    def self.call(args, plan)
      json, account_id, inbox, = args
      uri = URI(inbox)
      account = Database.account(account_id)
      Breaker.around(inbox) do
        status = post(json, account, uri, plan)
        # What another try will not change is not tried again.
        raise Failed, "#{inbox} returned code #{status}" unless (200..299).cover?(status) || ((400..499).cover?(status) && ![401, 408, 429].include?(status))
      end
    end

    def self.post(json, account, uri, plan)
      headers = {
        "User-Agent" => AGENT, "Host" => "#{uri.host}:#{uri.port}", "Date" => Time.now.utc.httpdate, "Accept-Encoding" => "gzip",
        "Content-Type" => "application/activity+json", "Digest" => "SHA-256=#{Base64.strict_encode64(Digest::SHA256.digest(json))}"
      }
      headers["Signature"] = signature(headers, account, uri)
      tries = plan[:addresses]
      begin
        Timeout.timeout(30) { Connections.with(uri, plan[:address]) { |client| Integer(client.request_post(uri.request_uri, json, headers).code) } }
      rescue Net::OpenTimeout
        raise if (tries -= 1) < 1

        retry # the host's next address
      end
    end

    def self.signature(headers, account, uri)
      text = SIGNED.map do |name|
        value = name == "(request-target)" ? "post #{uri.request_uri}" : headers[name.split("-").map(&:capitalize).join("-")]
        "#{name}: #{value}"
      end.join("\n")
      key = OpenSSL::PKey::RSA.new(account["private_key"]) # parsed for each delivery, as Mastodon does
      signed = Base64.strict_encode64(key.sign(OpenSSL::Digest.new("SHA256"), text))
      %(keyId="https://local.test/users/#{account["username"]}#main-key",algorithm="rsa-sha256",headers="#{SIGNED.join(" ")}",signature="#{signed}")
    end
  end

  # What every class does.
  module Work
    PUSHING = 0.02 # ms of processor time for each job that is pushed, kept back from the computing before

    def perform(*args)
      meter = Meter.new
      job = Thread.current.thread_variable_get(:loadtest_job)
      run = "#{jid} #{job["retry_count"] ? job["retry_count"].to_i + 1 : 0}"
      conductor = Conductor.mine
      plan = parse(conductor.ask("S #{run} #{Process.pid} #{job["enqueued_at"]}"))
      begin
        steps(plan, meter, args)
        leave(conductor, run, plan, meter)
      rescue Exception => e # a shutdown too
        conductor.say("F #{run} #{e.is_a?(StandardError) ? "failed" : "cut"}") unless e.message.start_with?("the conductor")
        raise
      end
    end

    private

    def parse(line)
      cpu, native, iterations, queries, net, verdict, address, addresses, = line.split
      {cpu: cpu.to_f / 1000, native: native.to_f / 1000, iterations: iterations.to_i, queries: queries.to_i, net: net.to_f / 1_000_000, failed: verdict == "fail",
       delivers: verdict == "deliver", address: address, addresses: addresses.to_i}
    end

    # The order of loadtest/simulate: compute, ask the database, compute, wait for others, compute.
    def steps(plan, meter, args)
      cpu, far = plan[:cpu], plan[:delivers] || plan[:net].positive?
      meter.up_to(far ? cpu / 3 : cpu / 2)
      if far
        Database.work(plan[:queries] / 2, plan[:iterations] / 2)
        meter.up_to(cpu * 2 / 3)
        plan[:delivers] ? Delivery.call(args, plan) : sleep(plan[:net])
        raise Failed, "the other side says no" if plan[:failed]
      else
        Database.work(plan[:queries], plan[:iterations])
      end
      meter.native(plan[:native]) if plan[:native].positive?
    end

    # What follows from the job is pushed by the job, through its own Redis.
    def leave(conductor, run, plan, meter)
      count, bytes = conductor.ask("L #{run}").split.map(&:to_i)
      meter.up_to(plan[:cpu] - (count * PUSHING))
      push(conductor.read(bytes)) if count.positive?
      meter.up_to(plan[:cpu])
      conductor.ask("E #{run}")
    end

    # Each job: a line with its queue and its time (0 for now), then its payload on a line.
    def push(text)
      lists = Hash.new { |hash, queue| hash[queue] = [] }
      later = []
      text.each_line(chomp: true).each_slice(2) do |head, payload|
        queue, score = head.split
        score == "0" ? lists[queue] << payload : later.push(score, payload)
      end
      lists.each { |queue, list| list.each_slice(1000) { |some| RedisCall.sidekiq("LPUSH", "queue:#{queue}", *some) } }
      later.each_slice(2000) { |some| RedisCall.sidekiq("ZADD", "schedule", *some) }
    end
  end

  # Waits that Mastodon's classes have of their own.
  BACKOFF = {
    "exponential" => ->(count) { 15 + (10 * (count**4)) + rand(10 * (count**4)) },
    "delivery" => ->(count) { (count**4) + 15 + (rand(0.5 * (count**4))) }
  }.freeze

  CLASSES.each do |name, options|
    outer = name.split("::")[0..-2].inject(Object) { |space, part| space.const_defined?(part, false) ? space.const_get(part, false) : space.const_set(part, Module.new) }
    outer.const_set(name.split("::").last, Class.new do
      include Sidekiq::Worker
      include Work
      sidekiq_options queue: options["queue"], retry: options["retry"], dead: options["dead"]
      wait = BACKOFF[options["backoff"]]
      sidekiq_retry_in { |count| wait.call(count) } if wait
    end)
  end
end

Sidekiq.configure_server do |config|
  config.server_middleware { |chain| chain.add Loadtest::Middleware }
end
