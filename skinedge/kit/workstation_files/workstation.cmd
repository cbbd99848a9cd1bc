@echo off
rem Install the workstation without a network: workstation.cmd install. Another interpreter: set PYTHON=C:\Python312\python.exe
if "%PYTHON%"=="" set PYTHON=py
"%PYTHON%" "%~dp0workstation.pyz" %*
