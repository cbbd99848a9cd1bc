@echo off
rem Install this kit without a network. Another interpreter: set PYTHON=C:\Python312\python.exe
if "%PYTHON%"=="" set PYTHON=py
"%PYTHON%" "%~dp0install.py" %*
