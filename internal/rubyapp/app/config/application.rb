# frozen_string_literal: true

require "rails"
require "active_record"
require "active_job"
require "connection_pool"
require "json"
require "openssl"
require "net/http"
require "sidekiq"
require "sidekiq/rails"

Rails.root = Pathname.new(File.expand_path("..", __dir__))

# What a production server has in its environment file. Variables that are set already stay as they are.
env_file = Rails.root.join(".env.production")
if Rails.env.production? && env_file.exist?
  env_file.each_line do |line|
    name, value = line.strip.split("=", 2)
    ENV[name] = value if value && ENV[name].to_s.empty? && name.match?(/\A[A-Z_0-9]+\z/)
  end
end

Rails.logger = Logger.new($stdout, level: ENV.fetch("RAILS_LOG_LEVEL", "info"))

# Ways to fail at boot, for those who have to report them.
case ENV["RUBYAPP_BOOT"]
when "raise" then raise "the application does not boot (RUBYAPP_BOOT)"
when "gem" then require "a_gem_that_is_not_installed"
when "exit" then exit!(3)
when "hang" then sleep
end

# A server of this kind has all of Rails loaded, eagerly, the translations of all languages, and many gems of which a job
# uses few: those of Mastodon's that Debian has and that need no web server.
if ENV["RUBYAPP_GEMS"] == "1"
  %w[action_controller action_dispatch action_view action_mailer mail nokogiri http addressable/uri aws-sdk-s3
     elasticsearch haml mime/types/full oj omniauth ox premailer pundit rack redcarpet rqrcode sanitize].each { |name| require name }
  [ActiveSupport, ActiveModel, ActionDispatch, ActionView, ActionController, ActiveRecord, ActiveJob, ActionMailer].each(&:eager_load!)
  locales = Gem::Specification.find_by_name("rails-i18n").gem_dir
  I18n.load_path += Dir["#{locales}/rails/locale/*.yml", "#{locales}/rails/pluralization/*.rb"].sort
  I18n.eager_load!
end

Dir[Rails.root.join("app/lib/*.rb").to_s].sort.each { |file| require file }
